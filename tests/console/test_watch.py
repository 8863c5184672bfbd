"""Closing what nobody uses: only what its own service calls idle, and only for long enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from akashllm.cli.watch import _wanted
from akashllm.errors import MarketError, MarketUnavailable, StateError
from akashllm.market.base import Market, Standing
from akashllm.market.probe import Health
from akashllm.market.watching import IDLE, Watched, look
from akashllm.state import Home, Store
from akashllm.state.private import write_private
from akashllm.testing.market import MarketServer
from tests.cli.conftest import Said

from .test_cli import DEPLOY, here, home, server  # noqa: F401 - fixtures

Run = Callable[..., Said]


class Fixed:
    """A market with one deployment that stands as it is told."""

    charges = True
    name = "fixed"

    def __init__(self, standing: Standing | MarketError) -> None:
        self._standing = standing
        self.closed: list[str] = []

    def status(self, _dseq: str) -> Standing:
        """As told."""
        if isinstance(self._standing, MarketError):
            raise self._standing
        return self._standing

    def close(self, dseq: str) -> None:
        """Noted."""
        self.closed.append(dseq)


UP = Standing(dseq="1", state="running", url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("standing", "idle", "verdict"),
    [
        (UP, 7200.0, "closed"),
        (UP, 7199.0, "open"),
        (UP, 0.0, "open"),
        (UP, None, "unknown"),
        (replace(UP, url=None), 9999.0, "unknown"),
        (replace(UP, state="closed"), 9999.0, "unknown"),
        (MarketUnavailable("away"), 9999.0, "unknown"),
    ],
)
def test_only_what_is_surely_idle_is_closed(
    standing: Standing | MarketError, idle: float | None, verdict: str
) -> None:
    """Two hours are two hours; a silent service, a silent market and a lease that is gone are left alone."""
    market = Fixed(standing)
    watched = Watched(
        name="x",
        dseq="1",
        market=cast("Market", market),
        hours=2.0,
        key="k",
        close=lambda: market.close("1"),
    )
    seen = look(watched, ask=lambda _url, _key: Health("ready", idle=idle))

    assert seen.verdict == verdict
    assert market.closed == (["1"] if verdict == "closed" else [])


@pytest.mark.parametrize("state", ["deploying", "active", "failed", "closing"])
def test_whatever_may_be_paid_for_is_watched(tmp_path: Path, state: str) -> None:
    """An interrupted deploy and a close that failed have a lease, too; what came to no order has none."""
    with Store(Home(tmp_path / "home")) as store:
        row = store.add("x", "console", {}, "ready")
        store.add("y", "console", {}, "create")
        for one in store.all():
            store.update(one.id, state=state, facts={IDLE: 2.0})
        store.update(row.id, dseq="5")

        found = list(_wanted(store, {"console": cast("Market", Fixed(UP))}, None, None, None))
        assert [(one.dseq, one.hours) for one in found] == [("5", 2.0)]


def test_one_key_that_cannot_be_read_leaves_the_others_watched(tmp_path: Path) -> None:
    """Without its key a service does not tell, and says so; the next one is looked at."""
    with Store(Home(tmp_path / "home")) as store:
        for name in ("x", "y"):
            row = store.add(name, "console", {}, "done")
            store.update(row.id, dseq=name, state="active", facts={IDLE: 2.0})
            write_private(store.home.directory(name, row.id) / "api-key", f"{name}-key\n")
            if name == "x":
                (store.home.directory(name, row.id) / "api-key").chmod(0o644)

        found = _wanted(store, {"console": cast("Market", Fixed(UP))}, None, None, None)
        assert [(one.name, one.key) for one in found] == [("x", None), ("y", "y-key")]


def test_a_watch_outlives_a_record_that_is_busy(
    here: Run,  # noqa: F811
    home: Home,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look that came to nothing is said, and followed by another; only with --once it is the outcome."""
    database = home.prepare().database
    with Store(home):
        pass
    database.chmod(0o644)
    pauses = iter([lambda: database.chmod(0o600)])

    def sleep(_seconds: float) -> None:
        try:
            next(pauses)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("akashllm.cli.watch.time.sleep", sleep)
    assert here("watch", "--once").code == StateError.exit_code
    said = here("watch")

    assert said.err.count("nothing was looked at") == 1
    assert said.code == 130


@pytest.mark.engine
def test_a_watch_closes_what_is_idle_and_a_stranger_can_watch_too(
    here: Run,  # noqa: F811
    server: MarketServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Used a moment ago it stays; another machine needs its number, hours and key; then the escrow is back."""
    said = here(*DEPLOY, "--idle-hours", "1", "--json")
    assert "akashllm watch --once" in said.err
    (seen,) = here("watch", "--once", "--json").document["deployments"]
    assert (seen["verdict"], seen["hours"]) == ("open", 1.0)
    assert seen["idle"] < 0.5

    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "another"))
    assert here("watch", said.document["dseq"], "--once").code == 2
    assert here("watch", "--once", "--json").document == {"deployments": []}
    monkeypatch.setenv("SERVICE_KEY", said.document["api_key"])
    stranger = ("watch", said.document["dseq"], "--api-key-env", "SERVICE_KEY", "--once", "--json")
    assert here(*stranger, "--idle-hours", "1").document["deployments"][0]["verdict"] == "open"
    monkeypatch.setenv("SERVICE_KEY", "not-the-key-of-this-service")
    assert here(*stranger, "--idle-hours", "0").document["deployments"][0]["verdict"] == "unknown"
    monkeypatch.setenv("SERVICE_KEY", said.document["api_key"])
    assert here(*stranger, "--idle-hours", "0").document["deployments"][0]["verdict"] == "closed"

    assert not server.world.open()
    assert server.world.balance == 100


def test_a_watch_that_goes_on_is_no_document(here: Run) -> None:  # noqa: F811
    """--json needs --once, and says so."""
    said = here("watch", "--json")

    assert (said.code, json.loads(said.out)["error"]["hint"]) == (2, "add --once, or leave out --json")
