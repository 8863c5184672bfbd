"""Ending a deployment, so that neither a process nor a record nor a secret of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from akashllm.errors import MarketError
from akashllm.market.base import Market
from akashllm.state import Deployment, Store

DOOR = "open.html"
"""A page that leads a browser to the chat page, with the key."""


def unordered(row: Deployment) -> bool:
    """Whether it never came to an order: then no market has to be asked about it."""
    return row.dseq is None and row.step in {"plan", "preflight"}


def close(
    store: Store, market: Market | None, row: Deployment, *, waiting: Callable[[], None] | None = None
) -> Deployment:
    """End a deployment once nobody else is working on it.

    It stays in the record as `closing` until the market has confirmed: what fails halfway is closed again. Only
    what is `unordered` needs no market.
    """
    with store.home.lock(row.name, waiting=waiting):
        row = store.get(row.id)
        return row if row.state == "closed" else end(store, market, row, "it was closed")


def end(store: Store, market: Market | None, row: Deployment, why: str) -> Deployment:
    """As `close`, by who holds the name."""
    if market is not None:
        row = adopted(store, market, row)
    elif not unordered(row):
        raise MarketError(
            f"{row.name} is on the market {row.market}, which cannot be asked from here",
            hint="close it where it was deployed from",
        )
    row = store.record(row.id, "close", "before", {"why": why}, state="closing")
    if market is not None:
        for dseq in _numbers(market, row):
            market.close(dseq)
    directory = store.home.directory(row.name, row.id)
    for secret in ("api-key", "api-key.next", "admin-key", "manifest.json", DOOR):
        (directory / secret).unlink(missing_ok=True)
    return store.record(row.id, "close", "after", state="closed", reason=why)


def _numbers(market: Market, row: Deployment) -> Iterator[str]:
    """Every number that a row has there: an order whose reply was lost may land beside its repetition."""
    if row.dseq:
        yield row.dseq
    if market.charges and not unordered(row):
        yield from [
            held.dseq for held in market.holdings() if held.reference == row.reference and held.dseq != row.dseq
        ]


def adopted(store: Store, market: Market, row: Deployment) -> Deployment:
    """The row, with the number of a deployment whose creation was begun but whose reply never came."""
    if row.dseq is None and row.step == "create":
        for held in market.holdings():
            if held.reference == row.reference:
                return store.record(row.id, "create", "note", {"adopted": held.dseq}, dseq=held.dseq)
    return row
