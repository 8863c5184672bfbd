"""`status`: what is known of one deployment, by the record, the market, its provider and its service."""

from __future__ import annotations

from typing import Any

from akashllm.cli import options as opt
from akashllm.cli.inside import gateway_of
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out
from akashllm.cli.text import columns
from akashllm.errors import AkashllmError, MarketError
from akashllm.market.base import Limit, LimitsRuntime, LogLine, Market
from akashllm.market.choose import HOURS_A_MONTH, dollars_hour
from akashllm.market.order import bid_from_record
from akashllm.market.view import View, view
from akashllm.market.watching import IDLE
from akashllm.state import Deployment

_LATEST = 5
"""Events of the provider's cluster that are shown."""

_STEPS = 20


def status(name: opt.Name, *, json: opt.Json = False) -> None:
    """How one deployment is, in detail.

    Its service's health, replicas, GPU, price, how long its funds last, its last smoke test, and what its
    provider's cluster said last; with --json its latest steps too.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name, closed=True)
        market = markets.get(row.market)
        seen = view(store, row, market)
        steps = list(store.events(row.id))[-_STEPS:]
        ends = None if seen.state == "closed" else _ends(market, row)
        # The provider is asked last: it may be slow to answer, or not answer at all.
        out.lines(columns(_facts(row, seen, ends)))
        try:
            told, silent = _cluster(row, seen, market)
        except KeyboardInterrupt:
            raise Interrupted(f"{row.name} goes on; its provider has not answered") from None
    for line in told:
        out.line(f"event     {line.service}  {line.text}")
    if silent:
        out.line(f"events    not known: {silent}")
    out.document(
        {
            **seen.as_dict(),
            "gpu": _gpu(row),
            "price": row.plan.get("price_source"),
            "dollars_per_hour": _hourly(row),
            "ends": ends,
            "smoke": row.facts.get("smoke"),
            "provider_events": [{"object": line.service, "text": line.text} for line in told],
            **({"provider_silent": silent} if silent else {}),
            "events": [{"at": e.at, "step": e.step, "phase": e.phase, "detail": dict(e.detail)} for e in steps],
        }
    )


def _facts(row: Deployment, seen: View, ends: str | None) -> list[tuple[str, object]]:
    smoke = row.facts.get("smoke")
    hour = _hourly(row)
    price = row.plan.get("price_source")
    if hour is not None:
        price = f"${hour:.3f} an hour, ${hour * float(HOURS_A_MONTH):.2f} a month"
    facts: list[tuple[str, object | None]] = [
        ("name", seen.name),
        ("state", seen.words),
        ("reason", seen.reason or None),
        ("url", seen.url or "-"),
        ("model", f"{seen.model} on {seen.engine}, context {row.plan.get('context')}"),
        ("market", f"{seen.market}, number {seen.dseq or '-'}"),
        ("provider", seen.provider or "-"),
        ("replicas", ", ".join(f"{one.service} {one.ready} of {one.wanted}" for one in seen.replicas) or None),
        ("gpu", _gpu(row) or "none"),
        ("price", price),
        ("restarts", seen.restarts),
        ("created", seen.created_at),
        ("sdl", seen.sdl or "-"),
        ("money", _funds(seen.hours)),
        ("ends", ends),
        ("smoke", _counts(smoke) if smoke else None),
    ]
    return [(head, value) for head, value in facts if value is not None]


def _funds(hours: float | None) -> str | None:
    return None if hours is None else f"lasts {hours:.1f} hours" + ("" if hours >= 1 else ": add funds")


def _counts(smoke: dict[str, Any]) -> str:
    return f"{smoke.get('pass')} hold, {smoke.get('broken')} broken, {smoke.get('skipped')} skipped"


def _gpu(row: Deployment) -> str | None:
    """What was leased for each replica, by the bid that was taken; before that, what would do."""
    wanted = row.plan.get("gpus") or ()
    if not wanted:
        return None
    leased = (row.facts.get("bid") or {}).get("gpu")
    return f"{wanted[0]['count']} x {leased or ' or '.join(dict.fromkeys(one['model'] for one in wanted))}"


def _hourly(row: Deployment) -> float | None:
    """US dollars an hour by the bid that was taken; None where there is none, or nothing is paid in dollars."""
    bid = row.facts.get("bid")
    if not bid or row.provider is None:
        return None
    hour = dollars_hour(bid_from_record(bid))
    return None if not hour else float(hour)


def _cluster(row: Deployment, seen: View, market: Market | None) -> tuple[list[LogLine], str]:
    """What the provider's cluster said last; else why that is not known. Both empty without a provider."""
    if market is None or not market.charges or not seen.replicas:
        return [], ""
    try:
        gateway, lease = gateway_of(row, market)
        return list(gateway.events(lease))[-_LATEST:], ""
    except AkashllmError as error:
        return [], error.message


def _ends(market: Market | None, row: Deployment) -> str | None:
    """What will close it without being told again, in words; None: nothing that is known of."""
    if row.state != "active" or row.dseq is None:
        return None
    words = []
    limit = _limit(market, row.dseq)
    if limit is not None:
        when = f", {limit.ends}" if limit.ends else ""
        words.append(f"Console closes it {limit.hours} hours after its start{when}")
    idle = row.facts.get(IDLE)
    if idle is not None:
        words.append(f"`akashllm watch` closes it after {idle:g} idle hours")
    return "; ".join(words) or None


def _limit(market: object, dseq: str) -> Limit | None:
    """The market's own; None also where it does not say."""
    try:
        return market.limit(dseq) if isinstance(market, LimitsRuntime) else None
    except MarketError:
        return None
