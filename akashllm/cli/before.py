"""Before anything is ordered: what it may cost, whether it would serve, the secrets it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from akashllm.cli import options as opt
from akashllm.cli.markets import console_market, hang_up
from akashllm.cli.out import Out
from akashllm.errors import MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import API_KEY
from akashllm.plan import Plan
from akashllm.state import Home, Store


def prices(out: Out, market: Market) -> Mapping[str, Any] | None:
    """What GPUs cost on the market today, or None where it does not say."""
    if not isinstance(market, ConsoleMarket):
        return None
    try:
        return market.gpu_prices()
    except MarketError as error:
        out.talk(f"today's prices are not known ({error.message}): the table that comes with akashllm is used")
        return None


def live_prices(out: Out) -> Mapping[str, Any] | None:
    """The same for who orders nothing yet: Console tells it to everybody."""
    market = console_market(Home.find())
    try:
        return prices(out, market)
    finally:
        hang_up([market])


def worth_paying_for(plan: Plan) -> None:
    """Refuse a lease that would cost money and serve nothing. Raises UsageError."""
    files = "`akashllm render` writes its SDL all the same"
    if plan.model.kind == "file":
        raise UsageError(
            "the model is a file of this machine, which no image holds: its lease would be paid in vain",
            hint=f"put it into a repository and name it as hf.co/user/repo:QUANT; {files}",
        )


def with_image(
    out: Out, store: Store, plan: Plan, *, named: bool, without_volume: Callable[[], Plan] | None
) -> Plan:
    """The plan with an image that a provider can pull, by digest; that of an earlier attempt stays.

    A provider's volume belongs to root. Where the image does not start as root, the plan is the one that
    `without_volume` makes; None: there is only this one, so it is said and no more.

    Raises `UsageError` where it is at no registry, is not for linux/amd64, or takes too long to pull.
    """
    from akashllm.images import pinned, pullable

    row = store.named(plan.name)
    if row is not None and row.state not in {"deploying", "active"}:
        row = None
    # What an earlier attempt has decided on stays, whatever its registry says by now.
    decided = row is not None and row.plan.get("model", {}).get("alias") == plan.model.alias
    if row is not None and decided and plan.volume_gib and not row.plan.get("volume_gib") and without_volume:
        plan = without_volume()
    now = pinned(plan.image, store.home)
    if row is not None and "@" not in plan.image:
        earlier = str(row.plan.get("image", ""))
        if "@" in earlier and earlier.partition("@")[0] == now.partition("@")[0]:
            if "@" in now and now != earlier:
                out.talk(
                    f"{row.name} keeps the image that it was ordered with; `akashllm update` takes another"
                )
            return replace(plan, image=earlier)
    found = pullable(plan.image, store.home, named=named)
    if found.warning:
        out.talk(f"warning: {found.warning}")
    size = "" if found.size is None else f", {found.size / 2**20:,.0f} MiB to download"
    out.talk(f"image    {found.image}{size}")
    if not decided and plan.volume_gib and not found.as_root:
        plan = _where_to_write(out, plan, found.as_root, without_volume)
    return replace(plan, image=found.image)


def _where_to_write(
    out: Out, plan: Plan, as_root: bool | None, without_volume: Callable[[], Plan] | None
) -> Plan:
    """The plan for an image that cannot be counted on to write to a provider's volume."""
    fact, way = "volumes on Akash belong to root", "`akashllm build --own-volume` makes an image that owns them"
    if as_root is None:
        out.talk(f"warning: {fact}, and whom this image starts as cannot be read; {way}")
        return plan
    if without_volume is None:
        out.talk(f"warning: {fact}, and this image starts as another user, who cannot write there; {way}")
        return plan
    plan = without_volume()
    out.talk(f"volume   none: {fact}, and this image starts as another user; {way}")
    out.talk(f"         weights lie on the container's own {plan.disk_gib} GiB, and come again after a restart")
    return plan


def question(plan: Plan, hours: int | None) -> str:
    """What a person is asked before money is spent."""
    cap = "" if plan.max_price_hour is None else f" for at most ${plan.max_price_hour:.2f} an hour"
    until = f", closed after {hours} hours" if hours else ", until you close it"
    return f"Order {plan.name} on Akash{cap}{until}?"


def secrets(plan: Plan, variable: str | None, file: Path | None) -> dict[str, str]:
    """Values for the plan's placeholders: the key that was given, the rest from the environment."""
    found = {name: os.environ[name] for name in plan.secrets if name != API_KEY and name in os.environ}
    key = opt.read_key(variable, file)
    return found if key is None else {**found, API_KEY: key}
