"""`cost`: what deployments cost, and what their tokens have cost."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.operate import recorded
from akashllm.cli.out import Out
from akashllm.errors import MarketError
from akashllm.market.base import Market
from akashllm.market.bill import Bill, counted
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

OneName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="One deployment; all that are open if left out.")
]

HEAD = ("NAME", "MARKET", "$/HOUR", "$/MONTH", "$ SPENT", "$ IN ESCROW", "HOURS LEFT", "$/M TOKENS")

_FREE = "free"


def cost(name: OneName = None, *, json: opt.Json = False) -> None:
    """What deployments cost.

    Per hour and month, so far, how long the escrow lasts; for a million tokens where the service has counted
    some. Spending and escrow are as of the chain's last settlement.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        rows = [store.find(name)] if name else store.all()
        found = [(row, *_bill(store, row, markets.get(row.market))) for row in rows]
    document = [
        {
            "name": row.name,
            "market": row.market,
            "dseq": row.dseq,
            **(bill.as_dict() if bill else {"dollars_per_hour": None}),
            **({"reason": why} if why else {}),
        }
        for row, bill, why in found
    ]
    hourly = [bill.hour for _, bill, _ in found if bill and bill.hour is not None]
    total = sum(hourly, Decimal(0))
    out.document({"deployments": document, "dollars_per_hour": round(float(total), 6)})
    if not found:
        out.talk("nothing is deployed, so nothing is paid")
        return
    out.table([HEAD, *(_line(row, bill, why) for row, bill, why in found)])
    if len(hourly) > 1:
        out.line(f"together ${total:.4f} an hour")
    for row, bill, why in found:
        if bill is None and why != _FREE:
            out.talk(f"{row.name}: {why}")
        if bill and bill.dollars(Decimal(1)) is None:
            out.talk(f"{row.name} is paid in {bill.terms.denom}, which has no fixed rate to the dollar")


def _bill(store: Store, row: Deployment, market: Market | None) -> tuple[Bill | None, str]:
    """The bill, or why there is none."""
    if market is None or row.dseq is None:
        return None, "it has no lease" if market else f"the market {row.market} cannot be asked from here"
    if not market.charges:
        return None, _FREE
    try:
        standing = market.status(row.dseq)
    except MarketError as error:
        return None, error.message
    if standing.terms is None:
        return None, "it has no lease" if standing.state == "open" else "the market does not say"
    tokens = None
    key = store.home.directory(row.name, row.id) / "api-key"
    if standing.url and key.exists():
        tokens = counted(standing.url, read_private(key).strip())
    return Bill(terms=standing.terms, tokens=tokens, now=time.time()), ""


def _line(row: Deployment, bill: Bill | None, why: str) -> tuple[Any, ...]:
    if bill is None:
        return (row.name, row.market, why if why == _FREE else "-", *[""] * (len(HEAD) - 3))
    terms = bill.terms
    return (
        row.name,
        row.market,
        _dollars(bill.hour, 4) if bill.hour is not None else f"{terms.block.normalize()} {terms.denom}/block",
        _dollars(bill.month, 2),
        _dollars(bill.dollars(terms.spent), 4),
        _dollars(bill.dollars(terms.escrow), 4),
        _dollars(bill.hours_left, 1),
        _dollars(bill.million, 2),
    )


def _dollars(value: Decimal | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
