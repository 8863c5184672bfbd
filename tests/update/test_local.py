"""An update of this machine's own market: the process is exchanged at its address, or put back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from akashllm.errors import MarketError
from akashllm.market.local import LocalMarket
from akashllm.market.order import Order
from akashllm.market.probe import answers_to, probe
from akashllm.market.updating import Updater
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.state import Home, Store
from tests.market.conftest import QUICK, SERVICE
from tests.market.scripted import Verdict

KEY = "ak-canary-0123456789abcdef"


@pytest.fixture
def market(memory: Path) -> Iterator[LocalMarket]:
    """Runs the stand-in of a service."""
    home = Home(memory / "home").prepare()
    market = LocalMarket(home.local, command=[sys.executable, str(SERVICE)], policy=QUICK)
    yield market
    for held in market.holdings():
        market.close(held.dseq)


@pytest.fixture
def order() -> Order:
    """The bundled model on this machine."""
    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="tiny-llamacpp", local=True))
    return Order(plan=plan, sdl=render_sdl(plan), secrets={"AKASHLLM_API_KEY": KEY}, timeout=20.0)


def updater(market: LocalMarket, store: Store) -> Updater:
    """With the real probe and the real clock."""

    def verify(*_args: Any, **_kwargs: Any) -> Verdict:
        return Verdict()

    return Updater(market=market, store=store, verify=verify)


def with_env(order: Order, line: str) -> Order:
    """One variable more."""
    return replace(order, sdl=order.sdl.replace("    env:\n", f'    env:\n      - "{line}"\n'))


def test_a_process_is_exchanged_at_its_address(market: LocalMarket, memory: Path, order: Order) -> None:
    """The URL stays, `/health` tells the new revision, the new key is taken and the old one refused."""
    with Store(Home(memory / "home")) as store:
        row = updater(market, store).deploy(order).deployment
        url = row.url or ""
        assert probe(url).revision == ""
        changed = updater(market, store).in_place(row, with_env(order, "A_NEW=1")).deployment
        first = probe(url).revision
        assert (changed.url, len(first)) == (url, 12)
        updater(market, store).in_place(changed, with_env(order, "A_NEW=1"), key="ak-new")

        assert probe(url).revision not in {"", first}
        assert (answers_to(url, "ak-new"), answers_to(url, KEY)) == (200, 401)


def test_a_process_that_fails_makes_way_for_the_old_one(
    market: LocalMarket, memory: Path, order: Order
) -> None:
    """The service says that it failed: the old version answers again at the same address."""
    with Store(Home(memory / "home")) as store:
        row = updater(market, store).deploy(order).deployment
        with pytest.raises(MarketError, match=r"no memory.*runs the old version again"):
            updater(market, store).in_place(row, with_env(order, "STAND_IN=failed"))

        health = probe(row.url or "")
        assert (health.state, len(health.revision)) == ("ready", 12)
        assert answers_to(row.url or "", KEY) == 200


def test_a_second_process_takes_the_name(market: LocalMarket, memory: Path, order: Order) -> None:
    """What needs another lease runs beside the first until it is verified; then one of them is left."""
    with Store(Home(memory / "home")) as store:
        row = updater(market, store).deploy(order).deployment
        other = replace(order, sdl=order.sdl.replace("count: 1", "count: 2"))
        now = updater(market, store).beside(row, other).deployment

        assert (now.name, [held.dseq for held in market.holdings()]) == (row.name, [now.dseq])
        assert answers_to(now.url or "", KEY) == 200
        assert probe(row.url or "").state == "unreachable"
