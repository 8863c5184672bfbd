"""What is done with a deployment once it is there: list, url, close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.markets import hang_up, market_of, markets_here
from akashllm.cli.out import Out
from akashllm.errors import StateError
from akashllm.market.base import Held, Market
from akashllm.market.closing import close as close_one
from akashllm.market.closing import unordered
from akashllm.market.view import unrecorded, views
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
        (v.name, v.words, v.model, v.engine, v.market, v.dseq or "-", v.restarts, v.url or "-") for v in found
    ]
    out.table([head, *rows])


def url(name: opt.Name, *, json: opt.Json = False) -> None:
    """Print a deployment's URL."""
    out = Out(json=json)
    with recorded() as (store, _):
        row = store.find(name)
    address = address_of(row)
    out.document({"name": row.name, "url": address})
    out.line(address)


def address_of(row: Deployment) -> str:
    """Its URL. Raises `StateError` where it has none yet."""
    if not row.url:
        raise StateError(f"{row.name} has no URL yet", hint=f"`akashllm status {row.name}` shows how far it is")
    return row.url


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
