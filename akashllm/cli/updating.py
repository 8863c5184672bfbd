"""`update` and `key`: another version, or another key, for what runs."""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.after import show
from akashllm.cli.before import worth_paying_for
from akashllm.cli.bids import Chooser, wish_for
from akashllm.cli.deploy import ATTEMPTS, verify
from akashllm.cli.markets import market_of
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import PlainProgress, shown
from akashllm.cli.revising import Wanted, known_secrets, revised
from akashllm.cli.taking import Bid, BidWait, Timeout
from akashllm.cli.text import safe
from akashllm.errors import AkashllmError, UsageError
from akashllm.market.base import Market
from akashllm.market.changes import Changes, changes
from akashllm.market.driver import ADMIN_FILE
from akashllm.market.order import Order, Outcome
from akashllm.market.updating import NEXT_KEY, Updater
from akashllm.plan import Plan
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

_KEY_BYTES = 24
_COLOURS = {"+": "32", "-": "31", "@": "36"}

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A whole SDL to run instead.")]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help="Another model.")]
Engine = Annotated[str | None, typer.Option("--engine", "-e", metavar="ENGINE", help="Another engine.")]
Replicas = Annotated[int | None, typer.Option("--replicas", metavar="N", help="How many of it.")]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="A setting of the service, no secret; may be repeated. NAME= takes it away.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and do nothing.")]
Rotate = Annotated[bool, typer.Option("--rotate", help="Exchange it for a new one.")]
Admin = Annotated[bool, typer.Option("--admin", help="The key of who manages its models (--manage).")]
Where = Annotated[bool, typer.Option("--where", help="Print the file that holds it, not the key.")]


def update(
    name: opt.Name,
    file: File = None,
    *,
    model: Model = None,
    engine: Engine = None,
    context: opt.Context = None,
    concurrency: opt.Concurrency = None,
    quant: opt.Quant = None,
    gpu: opt.Gpu = None,
    gpu_count: opt.GpuCount = None,
    cpu: opt.Cpu = False,
    region: opt.Region = None,
    max_price: opt.MaxPrice = None,
    replicas: Replicas = None,
    image: opt.Image = None,
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
    wanted = Wanted(
        file=file,
        model=model,
        engine=engine,
        context=context,
        concurrency=concurrency,
        quant=quant,
        gpu=tuple(gpu or ()),
        gpu_count=gpu_count,
        cpu=cpu,
        region=region,
        max_price=max_price,
        replicas=replicas,
        image=image,
        env=tuple(env or ()),
    )
    with recorded() as (store, markets):
        row = store.find(name)
        market = market_of(markets, row)
        old = read_private(Path(row.sdl_path or ""))
        plan, new = revised(out, store, row, market, wanted)
        found = changes(old, new)
        document = {"name": row.name, **dataclasses.asdict(found)}
        _tell(out, found)
        again = "updating" in row.facts
        if found.nothing and not again:
            out.document({**document, "state": "unchanged", "url": row.url})
            out.talk(f"nothing changes: {row.name} runs that already")
            return
        if dry_run:
            out.document({**document, "state": "shown", "url": row.url})
            return
        if found.new_lease and market.charges:
            worth_paying_for(plan)
        opt.confirm(_question(row, market, plan, found), yes=yes)
        order = Order(
            plan=plan,
            sdl=new,
            secrets=known_secrets(store, row, old, new),
            timeout=timeout,
            attempts=ATTEMPTS if market.charges else 1,
        )
        outcome = _run(store, row, market, order, found, Taking(bid, bid_wait), document)
    if json:
        done = outcome.deployment
        smoke = outcome.report.as_dict() if outcome.report else None
        state = {"state": "ready", "url": done.url, "dseq": done.dseq, "smoke": smoke}
        out.document({**document, **state})
        return
    out.talk("")
    if found.new_lease:
        show(out, outcome)
    else:
        out.line(f"{row.name} runs the new version at {outcome.deployment.url}; its key is the same")


def key(
    name: opt.Name,
    *,
    rotate: Rotate = False,
    admin: Admin = False,
    where: Where = False,
    timeout: Timeout = 900.0,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Print a deployment's API key, or exchange it.

    A new key is in force once the service answers to it and no longer to the old one; it restarts for that.
    """
    out = Out(json=json)
    if admin and rotate:
        raise UsageError("--rotate exchanges the key of clients", hint="leave --admin out")
    with recorded() as (store, markets):
        row = store.find(name)
        if admin:
            _print(out, row, _admin_file(store, row), "admin_key", where=where)
            return
        path = store.home.directory(row.name, row.id) / "api-key"
        unfinished = path.with_name(NEXT_KEY)
        if rotate:
            market = market_of(markets, row)
            opt.confirm(f"Exchange the key of {row.name}? It restarts, and clients need the new one.", yes=yes)
            new = read_private(unfinished).strip() if unfinished.exists() else _new_key()
            sdl = read_private(Path(row.sdl_path or ""))
            order = Order(
                plan=Plan.from_dict(row.plan),
                sdl=sdl,
                secrets=known_secrets(store, row, sdl, sdl),
                timeout=timeout,
            )
            _run(store, row, market, order, None, Taking("best", 0.0), {"name": row.name}, key=new)
            out.talk(f"{row.name} answers to its new key, and to the old one no longer")
        elif unfinished.exists():
            out.talk(f"warning: an exchange of it was not finished: `akashllm key {row.name} --rotate` ends it")
        _print(out, row, path, "api_key", where=where)


def _print(out: Out, row: Deployment, path: Path, what: str, *, where: bool) -> None:
    secret = read_private(path).strip()
    out.document({"name": row.name, "file": str(path), **({} if where else {what: secret})})
    out.line(str(path) if where else secret)


def _admin_file(store: Store, row: Deployment) -> Path:
    path = store.home.directory(row.name, row.id) / ADMIN_FILE
    if not path.exists():
        raise UsageError(
            f"{row.name} has no admin key: nobody manages its models", hint="one deployed with --manage has"
        )
    return path


@dataclass(frozen=True, slots=True)
class Taking:
    """How a bid for a new lease is taken."""

    bid: str
    wait: float


def _run(
    store: Store,
    row: Deployment,
    market: Market,
    order: Order,
    found: Changes | None,
    taking: Taking,
    document: Mapping[str, Any],
    *,
    key: str | None = None,
) -> Outcome:
    asks = taking.bid == "ask"
    try:
        with PlainProgress() if asks else shown() as progress:
            updater = Updater(market=market, store=store, verify=verify, progress=progress)
            if found is None or not found.new_lease:
                return updater.in_place(row, order, key=key)
            if market.charges:
                chooser = Chooser(wish_for(order.plan, taking.bid), progress.note, ask=asks)
                updater = dataclasses.replace(updater, choose=chooser, gather=taking.wait)
            return updater.beside(row, order)
    except KeyboardInterrupt:
        command = f"akashllm key {row.name} --rotate" if key else f"akashllm update {row.name}"
        raise Interrupted(f"half done: the same `{command} ...` goes on with it") from None
    except AkashllmError as error:
        now = store.get(row.id)
        raise WithDocument(error, {**document, "state": now.state, "url": now.url}) from error


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


def _question(row: Deployment, market: Market, plan: Plan, found: Changes) -> str:
    if not found.new_lease:
        return f"Restart {row.name} with this? It answers nothing until its model is loaded again."
    cap = f" for at most ${plan.max_price_hour:.2f} an hour" if plan.max_price_hour and market.charges else ""
    return (
        f"Deploy this beside {row.name}{cap}, and close the first once it is verified? Both are paid meanwhile,"
        " and its URL changes."
    )


def _new_key() -> str:
    return f"ak-{secrets.token_urlsafe(_KEY_BYTES)}"
