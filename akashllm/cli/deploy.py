"""`deploy`: from a model's name to a verified URL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from akashllm.cli import options as opt
from akashllm.cli import wallet as own
from akashllm.cli.after import closing, show, so_far, still
from akashllm.cli.asking import planned
from akashllm.cli.before import prices, question, secrets, with_image, worth_paying_for
from akashllm.cli.bids import Chooser, wish_for
from akashllm.cli.make import read_sdl
from akashllm.cli.markets import DEFAULT, hang_up, market_named, require_key
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import shown
from akashllm.cli.taking import (
    Bid,
    BidWait,
    Container,
    DryRun,
    IdleHours,
    MarketOption,
    MaxHours,
    Port,
    SdlFile,
    Taking,
    Timeout,
    Why,
)
from akashllm.cli.wanted import takes_request
from akashllm.errors import AkashllmError, UsageError
from akashllm.market.base import Market
from akashllm.market.deploy import Deployer
from akashllm.market.order import Order, Verdicts
from akashllm.market.progress import Progress
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_errors import certainly_not
from akashllm.plan import DeployRequest, Plan
from akashllm.planning import explain
from akashllm.render import render_sdl
from akashllm.sdl import load
from akashllm.state import Home, Store

ATTEMPTS = 3
"""Providers that are tried, one after the other."""


@takes_request(model="tiny")
def deploy(
    *,
    request: DeployRequest,
    sdl: SdlFile = None,
    market: MarketOption = DEFAULT,
    container: Container = False,
    port: Port = None,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    timeout: Timeout = 900.0,
    bid: Bid = "best",
    why: Why = False,
    bid_wait: BidWait = 20.0,
    max_hours: MaxHours = None,
    idle_hours: IdleHours = None,
    from_: own.From = None,
    deposit: own.Deposit = None,
    keyring_backend: own.Keyring = None,
    node: own.Node = None,
    chain_id: own.ChainId = None,
    dry_run: DryRun = False,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Run a model; end with a verified URL and a key.

    Run again, it goes on where it was interrupted, or says that the model runs already.
    """
    out = Out(json=json)
    home = Home.find()
    written = None if sdl is None else _written(sdl, request)
    market = _in_container(market) if container else market
    signing = own.Signing(key=from_, deposit=deposit, keyring=keyring_backend, node=node, chain=chain_id)
    chosen = market_named(market, home, port=port, hours=max_hours, signing=signing)
    if max_hours and not chosen.charges:
        raise UsageError("--max-hours is for Akash: this machine closes nothing by itself", hint="leave it out")
    if not dry_run:
        require_key(chosen)
        if isinstance(chosen, WalletMarket):
            out.talk(own.ready(chosen, signing, hours=max_hours))
    try:
        _deploy(
            out,
            home,
            chosen,
            request=replace(request, local=_here(market, request)),
            written=written,
            key=(api_key_env, api_key_file),
            timeout=timeout,
            taking=Taking(bid=bid, why=why, wait=bid_wait, hours=max_hours, idle=idle_hours),
            dry_run=dry_run,
            yes=yes,
        )
    finally:
        hang_up([chosen])


def _written(file: Path, request: DeployRequest) -> Written:
    """The file, once it is certain that nothing else was asked for. Raises `UsageError`, `BadSdl`."""
    from akashllm.planning.written import plan_of

    if replace(request, name=None) != DeployRequest(model="tiny"):
        raise UsageError(
            "--sdl says all that there is to say of the model", hint="leave out the other options, or --sdl"
        )
    text = read_sdl(file)
    return Written(plan_of(text, request.name, source=str(file)), text)


def _in_container(market: str) -> str:
    """The market that `--container` makes of `local`. Raises `UsageError` for any other."""
    if market not in {"local", "docker"}:
        raise UsageError("--container is for this machine", hint="add --market local, or leave it out")
    return "docker"


def _here(market: str, request: DeployRequest) -> bool:
    """Whether to plan for this machine without a GPU: a process always, a container unless one is asked for."""
    wants_gpu = bool(request.gpu or request.gpu_count) or request.engine == "vllm"
    return market == "local" or (market == "docker" and not wants_gpu)


@dataclass(frozen=True, slots=True)
class Written:
    """An SDL that is deployed as it stands, and the plan behind it."""

    plan: Plan
    text: str


def _deploy(
    out: Out,
    home: Home,
    market: Market,
    *,
    request: DeployRequest,
    written: Written | None,
    key: tuple[str | None, Path | None],
    timeout: float,
    taking: Taking,
    dry_run: bool,
    yes: bool,
) -> None:
    without_volume = None
    if written is None:
        today = prices(out, market)
        plan = planned(request, prices=today)
        without_volume = partial(planned, replace(request, persistent=False), prices=today)
        out.talks(explain(plan))
    else:
        plan = written.plan
        out.talk(f"{plan.name}: {plan.model.alias} with {plan.engine}, {plan.price_source}")
    if dry_run:
        _show_only(out, home, plan, market, written, named=request.image is not None)
        return
    if market.charges:
        worth_paying_for(plan)
    with Store(home) as store:
        if market.charges:
            named = request.image is not None or written is not None
            found = with_image(out, store, plan, named=named, without_volume=without_volume)
            # A file is ordered as it stands: its image was only looked at.
            plan = found if written is None else plan
        wish = wish_for(plan, taking.bid)
        order = Order(
            plan=plan,
            sdl=rendered(plan) if written is None else written.text,
            secrets=secrets(plan, *key),
            timeout=timeout,
            attempts=ATTEMPTS if market.charges else 1,
            idle=taking.idle,
        )
        if market.charges and store.named(plan.name) is None:
            opt.confirm(question(plan, taking.hours), yes=yes)
        try:
            with shown(plain=taking.asks) as progress:
                deployer = Deployer(market=market, store=store, verify=verify, progress=progress)
                if market.charges:
                    chooser = Chooser(wish, progress.note, ask=taking.asks, why=taking.why)
                    deployer = replace(deployer, choose=chooser, gather=taking.wait)
                outcome = deployer.deploy(order)
        except KeyboardInterrupt:
            raise Interrupted(still(store.named(plan.name))) from None
        except AkashllmError as error:
            row = store.named(plan.name)
            if market.charges and row and row.state == "deploying" and (row.dseq or not certainly_not(error)):
                out.talk(still(row))
            raise WithDocument(error, so_far(store, plan.name, error)) from error
    if taking.idle:
        out.talk(
            f"nothing closes it after {taking.idle:g} idle hours: `akashllm watch --once` does, from cron"
            " on a machine that stays on; --max-hours is Console's own limit"
        )
    show(out, outcome, closes=closing(out, market, outcome, taking.hours))


def _show_only(
    out: Out, home: Home, plan: Plan, market: Market, written: Written | None, *, named: bool
) -> None:
    """What would be ordered, with the image as far as it is known without asking anybody."""
    from akashllm.images import settle

    if market.charges and written is None:
        image, warning = settle(plan.image, home, ask=named)
        if warning:
            out.talk(f"warning: {warning}")
        plan = replace(plan, image=image)
    sdl = rendered(plan) if written is None else written.text
    out.document({"name": plan.name, "plan": plan.as_dict(), "sdl": sdl})
    out.lines(sdl.splitlines())


def rendered(plan: Plan) -> str:
    """The SDL, once every rule has passed it."""
    sdl = render_sdl(plan)
    load(sdl)
    return sdl


def verify(url: str, *, api_key: str, model: str, progress: Progress) -> Verdicts:
    """The smoke test, telling each verdict as it falls."""
    from akashllm import smoke

    return smoke.run(
        url,
        api_key=api_key,
        model=model,
        on_result=lambda result: progress.check(result.title, result.verdict, result.reason),
    )
