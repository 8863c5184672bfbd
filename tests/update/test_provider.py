"""Console's update over HTTP, at a provider that really runs the manifest as a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from akashllm.errors import MarketError
from akashllm.market.choose import Wish, choose
from akashllm.market.clock import RealClock
from akashllm.market.order import Order
from akashllm.market.probe import answers_to, probe
from akashllm.market.updating import Updater
from akashllm.state import Home, Store
from akashllm.testing.market import LocalRunner, MarketServer, Shape, World
from tests.console import conftest as console
from tests.market.conftest import QUICK, SERVICE
from tests.market.scripted import Verdict

from .conftest import KEY


class Hasty(RealClock):
    """Looks often."""

    def sleep(self, seconds: float) -> None:
        """A hundredth of it."""
        super().sleep(seconds / 100)


@pytest.fixture(params=["august", "newer"])
def server(request: pytest.FixtureRequest, memory: Path) -> Iterator[MarketServer]:
    """A provider whose containers are processes of a stand-in."""
    runner = LocalRunner(memory / "provider", command=[sys.executable, str(SERVICE)], policy=QUICK)
    world = World(
        providers=[console.provider("akash1good", runner=runner)],
        shape=Shape() if request.param == "august" else Shape.newer(),
    )
    with MarketServer(world, key=console.CANARY) as server:
        yield server
    assert server.broken == []


def test_a_container_is_exchanged_over_http_and_put_back(
    server: MarketServer, memory: Path, order: Order
) -> None:
    """PUT ends one process and starts another at the same address; one that fails makes way for the old."""
    home = Home(memory / "home").prepare()
    market = console.Place(server, home).console()

    def verify(*_args: Any, **_kwargs: Any) -> Verdict:
        return Verdict()

    def changed(line: str) -> Order:
        return replace(order, sdl=order.sdl.replace("    env:\n", f'    env:\n      - "{line}"\n'))

    with Store(home) as store:
        updater = Updater(
            market=market, store=store, verify=verify, clock=Hasty(), choose=partial(choose, wish=Wish())
        )
        row = updater.deploy(order).deployment
        url = row.url or ""
        assert probe(url).revision == ""
        outcome = updater.in_place(row, changed("A_NEW=1"), key="ak-new")
        first = probe(url).revision
        assert (outcome.deployment.url, len(first)) == (url, 12)
        assert (answers_to(url, "ak-new"), answers_to(url, KEY)) == (200, 401)
        assert server.asked.count("PUT /v1/deployments/{dseq}") == 1

        with pytest.raises(MarketError, match="runs the old version again"):
            updater.in_place(outcome.deployment, changed("STAND_IN=failed"))
        assert probe(url).revision not in {"", first}
        assert answers_to(url, "ak-new") == 200
        assert server.world.open() == {row.dseq}
    market.close_connections()
