"""What closes a deployment by itself closes the one that takes its place, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from akashllm.cli import updating
from akashllm.market.deploy import Deployer
from akashllm.market.order import Order
from akashllm.market.updating import Updater
from akashllm.state import Home, Store
from akashllm.testing.images import pretend_pushed
from akashllm.testing.market import MarketServer, Shape, World
from tests.cli.conftest import Run, here
from tests.console import conftest as console
from tests.market.scripted import Ticking

from .conftest import Paper, provider

__all__ = ["here"]


@pytest.fixture
def paper() -> Paper:
    """Runs nothing."""
    return Paper()


@pytest.fixture
def server(paper: Paper, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MarketServer]:
    """A Console that closes by the clock, whose provider runs everything on paper."""
    world = World(providers=[provider("akash1cheap", runner=paper)], shape=Shape.newer())
    monkeypatch.setattr(updating, "verify", paper.verify)
    quick = partial(Updater, clock=Ticking(), ask=paper.ask, answers=paper.answers)
    monkeypatch.setattr(updating, "Updater", quick)
    with MarketServer(world, key=console.CANARY) as server:
        yield server
    assert server.broken == []


@pytest.fixture
def home(server: MarketServer, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine whose user has an account there."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(memory / "home"))
    monkeypatch.setenv("AKASH_CONSOLE_API_URL", server.url)
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", console.CANARY)
    pretend_pushed(Home.find())
    return Home.find()


@pytest.mark.parametrize("hours", [None, 12])
def test_console_is_told_the_same_limit_again(
    here: Run, home: Home, server: MarketServer, paper: Paper, order: Order, hours: int | None
) -> None:
    """A new lease ends by itself after as many hours as the old one; that is said before, and read back."""
    market = console.Place(server, home).console(hours=hours)
    usual: dict[str, Any] = {"market": market, "verify": paper.verify, "ask": paper.ask, "clock": Ticking()}
    with Store(home) as store:
        row = Deployer(store=store, **usual).deploy(order).deployment
    market.close_connections()
    asked = here("update", row.name, "--replicas", "2")
    assert ("after its start" in asked.err) == (hours is not None)
    said = here("update", row.name, "--replicas", "2", "--bid-wait", "0", "--yes", "--json")

    assert said.code == 0, said.err
    assert said.document["new_lease"]
    assert said.document["closes_after_hours"] == hours
    (dseq,) = server.world.open()
    assert (dseq != row.dseq, server.world.get(dseq).limit) == (True, hours)
