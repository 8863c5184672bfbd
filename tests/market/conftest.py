"""A home of its own for each test, and a market on it that is empty again at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from akashllm.market.local import LocalMarket
from akashllm.market.order import Order
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.state import Home, Store

SERVICE = Path(__file__).with_name("service.py")
KEY = "ak-canary-0123456789abcdef"
QUICK = {"grace": 5.0, "backoff": 0.01, "steady": 60.0, "give_up": 4}

MakeMarket = Callable[..., LocalMarket]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """Its record."""
    with Store(home) as store:
        yield store


@pytest.fixture
def make_market(home: Home) -> Iterator[MakeMarket]:
    """`make_market("dies", ...)`: the market, running the stand-in with these arguments."""

    def make(*arguments: str, port: int | None = None) -> LocalMarket:
        return LocalMarket(
            home.local, port=port, command=[sys.executable, str(SERVICE), *arguments], policy=QUICK
        )

    yield make
    market = make()
    for held in market.holdings():
        market.close(held.dseq)


@pytest.fixture
def order() -> Order:
    """The bundled model with llama.cpp, with a key that can be looked for."""
    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="tiny-llamacpp", local=True))
    return Order(plan=plan, sdl=render_sdl(plan), secrets={"AKASHLLM_API_KEY": KEY}, timeout=30.0)
