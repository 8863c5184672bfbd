"""Commands as the tests of Akash's markets run them, and what a person would see of their outcome."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from akashllm.market.base import Market
from akashllm.market.choose import Wish, choose
from akashllm.market.closing import close
from akashllm.market.deploy import Deployer
from akashllm.market.order import Order
from akashllm.market.view import views
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.state import Store
from akashllm.testing.market import Provider
from tests.market.scripted import Ticking, Verdict, healthy

KEY = "ak-canary-0123456789abcdef"
"""The API key of what is deployed: it may turn up nowhere but where it was asked for."""

PROVIDERS = ("akash1cheap", "akash1middle", "akash1dear")
_PRICES = dict(zip(PROVIDERS, ("4", "6", "9"), strict=True))

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Records are flushed to the disk at each step, and a thousand deployments wait long for a real one."""

ROUNDS = ("deploy", "deploy", "close", "deploy")


def provider(name: str, **changes: Any) -> Provider:
    """One of the three, with its price in its name."""
    return Provider(**{"address": name, "price": _PRICES.get(name, "6"), **changes})


def tiny(*, attempts: int = 3) -> Order:
    """The bundled model, as Akash would run it."""
    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="tiny-llamacpp"))
    secrets = {"AKASHLLM_API_KEY": KEY}
    return Order(plan=plan, sdl=render_sdl(plan), secrets=secrets, timeout=30.0, attempts=attempts)


def deployer(store: Store, market: Market, **changes: Any) -> Deployer:
    """A deployer for which everything goes well unless `changes` say otherwise."""
    usual: dict[str, Any] = {
        "verify": lambda *_args, **_kwargs: Verdict(),
        "clock": Ticking(),
        "ask": healthy,
        "choose": partial(choose, wish=Wish()),
    }
    return Deployer(market=market, store=store, **{**usual, **changes})


def run(what: str, store: Store, market: Market, order: Order) -> None:
    """One command, as somebody types it who does not look at what it says."""
    if what == "deploy":
        deployer(store, market).deploy(order)
    else:
        for row in store.all():
            close(store, market, row)


def shown(store: Store, market: Market) -> set[str]:
    """Numbers that `akashllm list` shows as anything but closed.

    A row that has none yet stands for one deployment of its reference.
    """
    numbers = {one.dseq for one in views(store, [market], ask=healthy) if one.dseq and one.state != "closed"}
    awaited = {row.reference for row in store.all() if row.dseq is None}
    for held in market.holdings():
        if held.reference in awaited:
            awaited.discard(held.reference)
            numbers.add(held.dseq)
    return numbers
