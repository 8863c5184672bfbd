"""`update` and `key`: another version, or another key, for what runs."""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.after import show
from akashllm.cli.asking import planned
from akashllm.cli.before import prices, worth_paying_for
from akashllm.cli.bids import Chooser, wish_for
from akashllm.cli.deploy import ATTEMPTS, Bid, BidWait, Timeout, rendered, verify
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import PlainProgress, shown
from akashllm.cli.text import safe
from akashllm.errors import AkashllmError, MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.changes import Changes, changes
from akashllm.market.order import API_KEY, Order, Outcome
from akashllm.market.updating import NEXT_KEY, Updater, recorded_secrets
from akashllm.plan import DeployRequest, Plan
from akashllm.sdl import load, placeholders
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

_KEY_BYTES = 24
_COLOURS = {"+": "32", "-": "31", "@": "36"}

File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="A whole SDL to run instead.", show_default=False),
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Another model.", show_default=False)]
Engine = Annotated[str | None, typer.Option("--engine", "-e", help="Another engine.", show_default=False)]
Replicas = Annotated[int | None, typer.Option("--replicas", help="How many of it.", show_default=False)]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="A setting of the service, no secret; may be repeated. NAME= takes it away.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and do nothing.")]
Rotate = Annotated[bool, typer.Option("--rotate", help="Exchange it for a new one.")]
Where = Annotated[bool, typer.Option("--where", help="Print the file that holds it, not the key.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `update` was asked for. None: as it is."""

    file: Path | None
    model: str | None
    engine: str | None
    context: int | None
    concurrency: int | None
    quant: str | None
    gpu: Sequence[str]
    gpu_count: int | None
    cpu: bool
    region: str | None
    max_price: float | None
    replicas: int | None
    image: str | None
    env: Sequence[str]

    @property
    def plans_anew(self) -> bool:
        """Whether the planner has to be asked."""
        return bool(
            self.model
            or self.engine
            or self.context
            or self.concurrency
            or self.quant
            or self.gpu
            or self.gpu_count
            or self.cpu
            or self.region
            or self.max_price
            or self.replicas
        )


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
        market = _market(markets, row)
        old = read_private(Path(row.sdl_path or ""))
        plan, new = _version(out, store, row, market, wanted)
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
            secrets=_secrets(store, row, old, new),
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
    where: Where = False,
    timeout: Timeout = 900.0,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Print a deployment's API key, or exchange it.

    A new key is in force once the service answers to it and no longer to the old one; it restarts for that.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name)
        path = store.home.directory(row.name, row.id) / "api-key"
        unfinished = path.with_name(NEXT_KEY)
        if rotate:
            market = _market(markets, row)
            opt.confirm(f"Exchange the key of {row.name}? It restarts, and clients need the new one.", yes=yes)
            new = read_private(unfinished).strip() if unfinished.exists() else _new_key()
            sdl = read_private(Path(row.sdl_path or ""))
            order = Order(
                plan=Plan.from_dict(row.plan),
                sdl=sdl,
                secrets=_secrets(store, row, sdl, sdl),
                timeout=timeout,
            )
            _run(store, row, market, order, None, Taking("best", 0.0), {"name": row.name}, key=new)
            out.talk(f"{row.name} answers to its new key, and to the old one no longer")
        elif unfinished.exists():
            out.talk(f"warning: an exchange of it was not finished: `akashllm key {row.name} --rotate` ends it")
        secret = read_private(path).strip()
    out.document({"name": row.name, "file": str(path), **({} if where else {"api_key": secret})})
    out.line(str(path) if where else secret)


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


def _version(out: Out, store: Store, row: Deployment, market: Market, wanted: Wanted) -> tuple[Plan, str]:
    """The plan and the SDL that are wanted instead of those of the row."""
    plan = Plan.from_dict(row.plan)
    if wanted.file is not None:
        if wanted.plans_anew or wanted.image or wanted.env:
            raise UsageError("an SDL and options contradict each other", hint="write the change into the file")
        try:
            text = wanted.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{wanted.file} cannot be read", hint="give the path of an SDL") from error
        load(text, source=str(wanted.file))
        return plan, text
    if wanted.plans_anew:
        plan = _planned(out, plan, market, wanted)
    image = _image(out, store, plan, market, wanted)
    plan = dataclasses.replace(plan, image=image, env=_environment(plan, wanted.env))
    return plan, rendered(plan)


def _planned(out: Out, plan: Plan, market: Market, wanted: Wanted) -> Plan:
    """Planned anew; prices of the day change nothing where the machine stays the same."""
    word = plan.model.file if plan.model.kind == "file" else plan.model.alias
    engine = opt.engine_named(wanted.engine) if wanted.engine else plan.engine
    made = planned(
        DeployRequest(
            model=wanted.model or word,
            engine=engine,
            name=plan.name,
            context=wanted.context or (None if wanted.model else plan.context),
            concurrency=wanted.concurrency or plan.concurrency,
            quant=wanted.quant or (None if wanted.model or wanted.engine else plan.quant or None),
            gpu=tuple(wanted.gpu),
            gpu_count=wanted.gpu_count,
            cpu_only=wanted.cpu or (not plan.gpus and not wanted.gpu and not wanted.gpu_count),
            region=wanted.region or plan.region,
            max_price=wanted.max_price,
            replicas=wanted.replicas or plan.replicas,
            nodes=plan.nodes,
            image=wanted.image,
            local=not market.charges,
        ),
        prices=prices(out, market),
    )
    if wanted.max_price is None and (made.gpus, made.containers) == (plan.gpus, plan.containers):
        kept = ("max_price_hour", "max_uact_block", "price_source")
        made = dataclasses.replace(made, **{name: getattr(plan, name) for name in kept})
    return made


def _image(out: Out, store: Store, plan: Plan, market: Market, wanted: Wanted) -> str:
    """The image that was named, by digest; else today's, where it is one of ours."""
    if not market.charges:
        return wanted.image or plan.image
    from akashllm.images import pinned, pullable

    if wanted.image is None and wanted.env and not wanted.plans_anew:
        return plan.image
    ours = wanted.image or _ours(plan)
    now = pinned(ours, store.home)
    if wanted.image is None and "@" in plan.image and now.partition("@")[0] != plan.image.partition("@")[0]:
        return plan.image
    try:
        found = pullable(ours, store.home, named=wanted.image is not None)
    except UsageError as error:
        if wanted.image is not None:
            raise
        out.talk(f"{error.message}; the image stays as it is")
        return plan.image
    if found.warning:
        out.talk(f"warning: {found.warning}")
    return found.image


def _ours(plan: Plan) -> str:
    """The image that a deployment of this model would have today."""
    request = DeployRequest(model=plan.model.alias, engine=plan.engine, name=plan.name, cpu_only=not plan.gpus)
    return planned(request).image


def _environment(plan: Plan, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    env = dict(plan.env)
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier() or not name.isascii():
            raise UsageError("--env takes NAME=VALUE", hint="NAME= takes a variable away")
        if name in plan.secrets or name in {API_KEY, "HF_TOKEN"}:
            raise UsageError(
                f"{name} is a secret, and others can read a command's arguments",
                hint="`akashllm key NAME --rotate` exchanges the key; other secrets come from the environment",
            )
        env.pop(name, None)
        if value:
            env[name] = value
    return tuple(sorted(env.items()))


def _secrets(store: Store, row: Deployment, old: str, new: str) -> dict[str, str]:
    """Values for placeholders: those of now, and what the environment says instead."""
    path = store.home.directory(row.name, row.id) / "manifest.json"
    found = recorded_secrets(old, read_private(path)) if path.exists() else {}
    names = [name for name in placeholders(new) if name != API_KEY]
    found |= {name: os.environ[name] for name in names if name in os.environ}
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(
            f"the SDL wants {', '.join(missing)} and no value is known",
            hint=f"set {missing[0]} in the environment",
        )
    return {name: found[name] for name in names}


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


def _market(markets: Mapping[str, Market], row: Deployment) -> Market:
    market = markets.get(row.market)
    if market is None:
        raise MarketError(
            f"{row.name} is on the market {row.market}, which cannot be asked from here",
            hint="`akashllm login` stores Console's key",
        )
    return market


def _new_key() -> str:
    return f"ak-{secrets.token_urlsafe(_KEY_BYTES)}"
