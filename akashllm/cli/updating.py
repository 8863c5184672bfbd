"""`update`: another version of what runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.after import closing, show
from akashllm.cli.before import worth_paying_for
from akashllm.cli.bids import Chooser, wish_for
from akashllm.cli.deploy import ATTEMPTS, verify
from akashllm.cli.markets import market_of
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import shown
from akashllm.cli.revising import Wanted, known_secrets, revised, runs_now
from akashllm.cli.taking import Bid, BidWait, Taking, Timeout
from akashllm.cli.text import safe
from akashllm.cli.wanted import takes_changes
from akashllm.errors import AkashllmError
from akashllm.market.base import Market
from akashllm.market.changes import Changes
from akashllm.market.changes import changes as differences
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import Order
from akashllm.market.updating import Updater
from akashllm.plan import Plan
from akashllm.state import Deployment, Store

_COLOURS = {"+": "32", "-": "31", "@": "36"}

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="A whole SDL to run instead; - is stdin.")]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="A setting of the service, no secret; may be repeated. NAME= takes it away.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and do nothing.")]


@takes_changes
def update(
    name: opt.Name,
    file: File = None,
    *,
    changes: Mapping[str, Any],
    env: Env = None,
    timeout: Timeout = 900.0,
    bid: Bid = "best",
    bid_wait: BidWait = 20.0,
    dry_run: DryRun = False,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Change what a deployment runs.

    Shows the difference first. What the lease bears is exchanged in place; anything else is deployed beside it,
    verified, and takes its name before the first is closed. Without an option: today's image. Where it fails,
    what ran before goes on.
    """
    out = Out(json=json)
    wanted = Wanted(file=file, changes=changes, env=tuple(env or ()))
    taking = Taking(bid=bid, wait=bid_wait)
    with recorded() as (store, markets):
        row = store.find(name)
        market = market_of(markets, row)
        old = runs_now(row)
        plan, new = revised(out, store, row, market, wanted)
        found = differences(old, new)
        document = {"name": row.name, **asdict(found)}
        _tell(out, found)
        if found.nothing and "updating" not in row.facts:
            out.document({**document, "state": "unchanged", "url": row.url})
            out.talk(f"nothing changes: {row.name} runs that already")
            return
        if dry_run:
            out.document({**document, "state": "shown", "url": row.url})
            return
        hours, wish = None, None
        if found.new_lease:
            market, hours = _limited(market, row)
            if market.charges:
                worth_paying_for(plan)
                wish = wish_for(plan, taking.bid)
        opt.confirm(_question(row, market, plan, found, hours), yes=yes)
        order = Order(
            plan=plan,
            sdl=new,
            secrets=known_secrets(store, row, old, new),
            timeout=timeout,
            attempts=ATTEMPTS if market.charges else 1,
        )
        with updating(
            store, row, market, f"akashllm update {row.name}", document, plain=taking.asks
        ) as updater:
            if wish is None:
                outcome = updater.beside(row, order) if found.new_lease else updater.in_place(row, order)
            else:
                chooser = Chooser(wish, updater.progress.note, ask=taking.asks)
                outcome = replace(updater, choose=chooser, gather=taking.wait).beside(row, order)
        closes = closing(out, market, outcome, hours)
    if json:
        done = outcome.deployment
        smoke = outcome.report.as_dict() if outcome.report else None
        state = {"state": "ready", "url": done.url, "dseq": done.dseq, "smoke": smoke}
        out.document({**document, **state, "closes_after_hours": closes})
        return
    out.talk("")
    if found.new_lease:
        show(out, outcome, closes=closes)
    else:
        out.line(f"{row.name} runs the new version at {outcome.deployment.url}; its key is the same")


@contextmanager
def updating(
    store: Store,
    row: Deployment,
    market: Market,
    command: str,
    document: Mapping[str, Any],
    *,
    plain: bool = False,
) -> Iterator[Updater]:
    """What updates `row`. A failure comes out with `document` and how things are then.

    command   what goes on with it where it was interrupted
    """
    try:
        with shown(plain=plain) as progress:
            yield Updater(market=market, store=store, verify=verify, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted(f"half done: the same `{command} ...` goes on with it") from None
    except AkashllmError as error:
        now = store.get(row.id)
        raise WithDocument(error, {**document, "state": now.state, "url": now.url}) from error


def _limited(market: Market, row: Deployment) -> tuple[Market, int | None]:
    """The market, which closes a new lease after as many hours as that of now; how many that is."""
    limit = market.limit(row.dseq) if isinstance(market, ConsoleMarket) and row.dseq else None
    if limit is None or not isinstance(market, ConsoleMarket):
        return market, None
    return replace(market, hours=limit.hours), limit.hours


def _tell(out: Out, found: Changes) -> None:
    coloured = sys.stdout.isatty() and not out.json and "NO_COLOR" not in os.environ
    for line in found.diff:
        colour = _COLOURS.get(line[:1])
        if coloured and colour:
            print(f"\x1b[{colour}m{safe(line)}\x1b[0m")
        else:
            out.line(line)
    for line in found.in_place:
        out.talk(f"in place   {line}")
    for line in found.new_lease:
        out.talk(f"new lease  {line}")


def _question(row: Deployment, market: Market, plan: Plan, found: Changes, hours: int | None) -> str:
    if not found.new_lease:
        return f"Restart {row.name} with this? It answers nothing until its model is loaded again."
    cap = f" for at most ${plan.max_price_hour:.2f} an hour" if plan.max_price_hour and market.charges else ""
    until = f", and Console closes the new one {hours} hours after its start" if hours else ""
    return (
        f"Deploy this beside {row.name}{cap}, and close the first once it is verified? Both are paid meanwhile,"
        f" its URL changes{until}."
    )
