"""Services that fail or lie, seen through the command line: a sentence, a way out, nothing left running."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from akashllm.cli import deploy as deploy_module
from akashllm.cli import markets
from akashllm.market.local import LocalMarket
from akashllm.market.local_files import MARK
from akashllm.market.processes import family
from akashllm.state import Home, Store

from .conftest import Run

SERVICE = Path(__file__).parents[1] / "market" / "service.py"
QUICK = {"grace": 5.0, "backoff": 0.01, "give_up": 3}

Pretend = Callable[..., None]


class Verdict:
    """A smoke test that went as it is told."""

    def __init__(self, *, ok: bool) -> None:
        self.ok = ok

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"ok": self.ok, "pass": 1, "broken": int(not self.ok), "skipped": 0}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Have the market `local` run a stand-in that misbehaves as its arguments say."""

    def arrange(*arguments: str, ok: bool = True) -> None:
        command = [sys.executable, str(SERVICE), *arguments]
        monkeypatch.setattr(markets, "LocalMarket", partial(LocalMarket, command=command, policy=QUICK))
        monkeypatch.setattr(deploy_module, "verify", lambda *_args, **_kwargs: Verdict(ok=ok))

    return arrange


def left(home: Home) -> int:
    """Processes of all deployments."""
    return sum(len(family(MARK, str(path))) for path in home.local.iterdir())


DEPLOY = ("deploy", "--market", "local", "--name", "one")


def test_a_service_that_cannot_load_is_ended_and_its_reason_is_harmless(
    here: Run, home: Home, pretend: Pretend
) -> None:
    """A failed load is exit 5 with the service's own reason, escaped; nothing runs; the list says failed."""
    pretend("failed")
    said = here(*DEPLOY)

    assert (said.code, said.out) == (5, "")
    assert "error: one failed: \\x1b]0;owned\\x07 no memory [/red]" in said.err
    assert "\x1b" not in said.err
    assert left(home) == 0
    (row,) = here("list", "--json").document["deployments"]
    assert row["state"] == "failed"
    assert "\x1b" not in here("list").out + here("status", "one").out
    assert here("logs", "one").out.startswith("starting\n")


def test_a_service_that_dies_is_given_up_with_its_last_words(here: Run, home: Home, pretend: Pretend) -> None:
    """A service that ends at once again and again is a failed deployment, and its last lines are told."""
    pretend("dies")
    said = here(*DEPLOY, "--json")

    assert (said.code, said.error["type"]) == (5, "MarketError")
    assert "ended with status 5; it said last: starting" in said.error["message"]
    assert (said.document["name"], said.document["state"]) == ("one", "failed")
    assert left(home) == 0


def test_what_failed_can_be_deployed_again(here: Run, pretend: Pretend) -> None:
    """A failed deployment holds its name only until the next deploy."""
    pretend("dies")
    assert here(*DEPLOY).code == 5
    pretend()
    said = here(*DEPLOY, "--json")

    assert (said.code, said.document["state"]) == (0, "ready")


def test_a_model_that_never_loads_ends_the_wait_and_not_the_service(
    here: Run, home: Home, pretend: Pretend
) -> None:
    """After --timeout the command gives up with what can be done; the service goes on, and is listed."""
    pretend("never-ready")
    said = here(*DEPLOY, "--timeout", "1", "--json")

    assert (said.code, said.error["type"]) == (5, "MarketError")
    assert "deploy again" in said.error["hint"]
    assert left(home) == 2
    assert here("list", "--json").document["deployments"][0]["state"] == "interrupted"
    assert here("close", "one", "--yes").code == 0
    assert left(home) == 0


def test_a_broken_promise_is_exit_1_and_the_document_has_url_and_report(here: Run, pretend: Pretend) -> None:
    """A red smoke test fails the command; the service stays, and the document has both error and report."""
    pretend(ok=False)
    said = here(*DEPLOY, "--json")

    assert (said.code, said.error["type"]) == (1, "CheckFailed")
    assert said.document["url"].startswith("http://127.0.0.1:")
    assert said.document["smoke"] == {"ok": False, "pass": 1, "broken": 1, "skipped": 0}
    assert "1 broken" in here("status", "one").out


def test_another_plan_under_one_name_is_refused(here: Run, pretend: Pretend) -> None:
    """A name that runs other settings is exit 2, and what runs goes on."""
    pretend()
    assert here(*DEPLOY).code == 0
    said = here(*DEPLOY, "--context", "512", "--json")

    assert (said.code, said.error["type"]) == (2, "UsageError")
    assert "other settings" in said.error["message"]
    assert here("list", "--json").document["deployments"][0]["state"] == "ready"


def test_weights_and_engines_this_machine_lacks_are_refused_before_anything_runs(here: Run, home: Home) -> None:
    """A model whose weights are elsewhere, and an engine that needs its image, are exit 5 and start nothing."""
    for arguments in (("--model", "llama3"), ("--model", "qwen2.5:0.5b", "--engine", "ollama")):
        said = here("deploy", "--market", "local", *arguments, "--json")
        assert (said.code, said.error["type"]) == (5, "MarketError"), said.err
        assert said.error["hint"]
    assert not home.local.exists() or left(home) == 0


def test_the_port_can_be_chosen(here: Run, pretend: Pretend, unused: int) -> None:
    """--port is where it answers."""
    pretend()
    assert here(*DEPLOY, "--port", str(unused), "--json").document["url"] == f"http://127.0.0.1:{unused}"


@pytest.fixture
def unused() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_never_came_to_an_order_closes_without_its_market(
    here: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that failed for want of Docker is closed without it, and its name is free again."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home.root}/none.sock")
    failed = here("deploy", "--market", "docker", "--json")
    assert (failed.code, failed.error["type"]) == (8, "MarketUnavailable")

    closed = here("close", "tiny-llamacpp", "--yes", "--json")

    assert (closed.code, closed.document) == (0, {"name": "tiny-llamacpp", "dseq": None, "state": "closed"})
    assert here("list", "--json").document == {"deployments": []}


def test_a_market_that_cannot_be_asked_says_what_it_wants(here: Run, home: Home) -> None:
    """What runs at Console cannot be closed without its key, and stays in the record."""
    with Store(home) as store:
        row = store.add("m", "console", {"model": {"alias": "m"}, "engine": "llamacpp"}, "ready")
        store.update(row.id, dseq="7")

    refused = here("close", "m", "--yes", "--json")

    assert (refused.code, refused.error["type"]) == (5, "MarketError")
    assert "akashllm login" in refused.error["hint"]
    assert here("list", "--json").document["deployments"][0]["name"] == "m"
