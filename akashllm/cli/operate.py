"""What is done with a deployment once it is there: list, status, url, close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.markets import hang_up, market_of, markets_here
from akashllm.cli.out import Out
from akashllm.cli.text import columns
from akashllm.errors import MarketError, StateError
from akashllm.market.base import Held, Limit, LimitsRuntime, Market
from akashllm.market.closing import close as close_one
from akashllm.market.closing import unordered
from akashllm.market.view import View, unrecorded, view, views
from akashllm.market.watching import IDLE
from akashllm.state import Deployment, Home, Store

All = Annotated[bool, typer.Option("--all", "-a", help="Closed deployments too.")]


@contextmanager
def recorded() -> Iterator[tuple[Store, dict[str, Market]]]:
    """The record and the markets, for the length of a command."""
    home = Home.find()
    with Store(home) as store:
        markets = {market.name: market for market in markets_here(home)}
        try:
            yield store, markets
        finally:
            hang_up(markets.values())


def list_(*, all_: All = False, json: opt.Json = False) -> None:
    """Every deployment and how it is."""
    out = Out(json=json)
    with recorded() as (store, markets):
        silent: list[str] = []
        found = list(views(store, list(markets.values()), closed=all_, silent=silent))
    for words in silent:
        out.talk(f"warning: {words}; what is open there may be more than this list shows")
    missing = {"not_asked": silent} if silent else {}
    out.document({"deployments": [one.as_dict() for one in found], **missing})
    if not found:
        out.talk("nothing is deployed; `akashllm deploy --market local` runs the bundled model here")
        return
    head = ("NAME", "STATE", "MODEL", "ENGINE", "MARKET", "DSEQ", "RESTARTS", "URL")
    rows = [
        (v.name, _state(v), v.model, v.engine, v.market, v.dseq or "-", v.restarts, v.url or "-") for v in found
    ]
    out.lines(columns([head, *rows]))


def status(name: opt.Name, *, json: opt.Json = False) -> None:
    """How one deployment is, in detail.

    Its service's health, restarts, price, last smoke test; with --json its latest events too.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name, closed=True)
        seen = view(store, row, markets.get(row.market))
        events = list(store.events(row.id))
        ends = _ends(markets.get(row.market), row)
    smoke = row.facts.get("smoke")
    last = [{"at": e.at, "step": e.step, "phase": e.phase, "detail": dict(e.detail)} for e in events[-20:]]
    plain = {"price": row.plan.get("price_source"), "ends": ends, "smoke": smoke, "events": last}
    out.document({**seen.as_dict(), **plain})
    facts: list[tuple[str, object]] = [
        ("name", seen.name),
        ("state", _state(seen)),
        ("url", seen.url or "-"),
        ("model", f"{seen.model} on {seen.engine}, context {row.plan.get('context')}"),
        ("market", f"{seen.market}, number {seen.dseq or '-'}, provider {seen.provider or '-'}"),
        ("price", row.plan.get("price_source")),
        ("restarts", seen.restarts),
        ("created", seen.created_at),
        ("sdl", seen.sdl or "-"),
    ]
    if seen.hours is not None:
        facts.append(("money", f"lasts {seen.hours:.1f} hours" + ("" if seen.hours >= 1 else ": add funds")))
    if ends:
        facts.append(("ends", ends))
    if seen.reason:
        facts.insert(2, ("reason", seen.reason))
    if smoke:
        facts.append(
            ("smoke", f"{smoke.get('pass')} hold, {smoke.get('broken')} broken, {smoke.get('skipped')} skipped")
        )
    out.lines(columns(facts))


def url(name: opt.Name, *, json: opt.Json = False) -> None:
    """Print a deployment's URL."""
    out = Out(json=json)
    with recorded() as (store, _):
        row = store.find(name)
    if not row.url:
        raise StateError(f"{row.name} has no URL yet", hint=f"`akashllm status {row.name}` shows how far it is")
    out.document({"name": row.name, "url": row.url})
    out.line(row.url)


def close(name: opt.Name, *, yes: opt.Yes = False, json: opt.Json = False) -> None:
    """End a deployment.

    No process of it stays, its key is removed, its log is kept.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        stray = _stray(store, markets, name)
        if stray is not None:
            market, held = stray
            opt.confirm(f"Close number {held.dseq}, which the record does not know?", yes=yes)
            market.close(held.dseq)
            out.document({"name": held.reference, "dseq": held.dseq, "state": "closed"})
            out.line(f"number {held.dseq} is closed")
            return
        row = store.find(name)
        opt.confirm(f"Close {row.name}{f' at {row.url}' if row.url else ''}?", yes=yes)
        row = close_one(
            store,
            None if unordered(row) else market_of(markets, row),
            row,
            waiting=lambda: out.talk("waiting for another command that works on it"),
        )
    out.document({"name": row.name, "dseq": row.dseq, "state": row.state})
    out.line(f"{row.name} is closed")


def _stray(store: Store, markets: dict[str, Market], word: str) -> tuple[Market, Held] | None:
    """An open deployment of that very number or reference that the record does not know."""
    return next(
        (
            (market, held)
            for market, held in unrecorded(store, list(markets.values()), silent=[])
            if word in {held.dseq, held.reference}
        ),
        None,
    )


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


def _state(seen: View) -> str:
    return (
        f"{seen.state} {seen.percent:.0f} %"
        if seen.state == "loading" and seen.percent is not None
        else seen.state
    )
