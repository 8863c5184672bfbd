"""What a deployment costs, and the page it is looked at with, on a market whose time can pass."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from akashllm.market.base import Terms
from akashllm.market.bill import Bill, Counted
from akashllm.state import Home, Store
from akashllm.testing.market import MarketServer, Shape
from tests.cli.conftest import Said

from .test_cli import DEPLOY, here, home, server  # noqa: F401 - fixtures

Run = Callable[..., Said]


@pytest.mark.engine
def test_a_deployment_s_cost_is_the_market_s_and_the_service_s_word(
    here: Run,  # noqa: F811
    server: MarketServer,  # noqa: F811
) -> None:
    """Price, spending and escrow add up after two hours; the smoke test's tokens give a price for a million."""
    made = here(*DEPLOY, "--max-hours", "5", "--json").document
    server.world.advance(2)
    (one,) = here("cost", "--json").document["deployments"]

    # 6 uact a block, 600 blocks an hour.
    assert (one["dollars_per_hour"], one["denom"]) == (0.0036, "uact")
    assert Decimal(one["price_per_block"]) == 6
    assert one["dollars_spent"] == 0.0072
    assert one["dollars_in_escrow"] == pytest.approx(0.5 - 0.0072)
    assert one["hours_left"] == pytest.approx((0.5 - 0.0072) / 0.0036, rel=1e-4)
    assert one["tokens"]["completion"] > 100
    assert one["dollars_per_million_tokens"] is None or one["dollars_per_million_tokens"] > 0
    assert made["closes_after_hours"] == 5
    assert "closes it 5 hours" in here("status", made["name"], "--json").document["ends"]
    assert "0.0036" in here("cost", made["name"]).out

    door = here("open", made["name"], "--json").document
    assert door == {"name": made["name"], "url": f"{made['url']}/chat", "opened": False}
    assert here("close", made["name"], "--yes").code == 0
    assert here("cost", "--json").document == {"deployments": [], "dollars_per_hour": 0.0}


@pytest.mark.engine
def test_a_limit_that_is_not_granted_is_said(here: Run, server: MarketServer) -> None:  # noqa: F811
    """An older Console ignores --max-hours: what it was asked is read back, and the warning says what to do."""
    server.world.shape = Shape()
    said = here(*DEPLOY, "--max-hours", "5", "--json")

    assert (said.code, said.document["closes_after_hours"]) == (0, None)
    assert "warning: this Console does not close it after 5 hours" in said.err


def test_the_key_goes_to_the_browser_in_a_private_file_only(
    here: Run,  # noqa: F811
    home: Home,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The browser's argument is a file's address; the file is 0600, leads to the fragment, and ends with it."""
    with Store(home.prepare()) as store:
        row = store.add("there", "local", {"engine": "llamacpp"}, "done")
        store.update(row.id, state="active", url="https://there.example")
    directory = home.directory("there", row.id)
    (directory / "api-key").touch(0o600)
    (directory / "api-key").write_text("ak-</script>&canary\n")
    asked: list[str] = []

    def opened(url: str) -> bool:
        asked.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", opened)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    said = here("open", "there")

    assert (said.code, said.out) == (0, "https://there.example/chat\n")
    assert asked == [(directory / "open.html").as_uri()]
    assert "canary" not in asked[0] + said.out + said.err
    assert stat.S_IMODE((directory / "open.html").stat().st_mode) == 0o600
    text = (directory / "open.html").read_text()
    assert text.count("</script>") == 1
    address = text.partition("location.replace(")[2].partition(")</script>")[0]
    assert json.loads(address) == "https://there.example/chat#key=ak-</script>&canary"
    here("close", "there", "--yes")
    assert not (directory / "open.html").exists()


def test_a_price_for_tokens_needs_tokens_and_a_rate() -> None:
    """Only what was measured is divided: few tokens, or a denomination without a rate, give no price."""
    terms = Terms(denom="uact", block=Decimal(1000), escrow=Decimal(0), spent=None)

    def million(tokens: int, denom: str = "uact") -> Decimal | None:
        one = Terms(denom=denom, block=terms.block)
        return Bill(terms=one, tokens=Counted(prompt=tokens, completion=0, since=0.0), now=7200.0).million

    # 0.6 dollars an hour, two hours, two million tokens.
    assert million(2_000_000) == Decimal("0.6")
    assert million(999) is None
    assert million(2_000_000, "uakt") is None
    assert Bill(terms=terms).million is None
    assert Bill(terms=terms).hours_left == 0


def test_a_free_market_is_free(here: Run, home: Home, tmp_path: Path) -> None:  # noqa: F811
    """This machine charges nothing, and that is said in the table."""
    with Store(home.prepare()) as store:
        row = store.add("mine", "local", {"engine": "llamacpp"}, "done")
        store.update(row.id, state="active", dseq="1")

    assert "free" in here("cost", "mine").out
    assert here("cost", "mine", "--json").document["deployments"][0]["reason"] == "free"
