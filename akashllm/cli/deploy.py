"""`deploy`: from a model's name to a verified URL."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.bids import Chooser, wish_for
from akashllm.cli.markets import DEFAULT, hang_up, market_named, require_key
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import PlainProgress, shown
from akashllm.errors import AkashllmError, CheckFailed, MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.console import ConsoleMarket
from akashllm.market.deploy import Deployer
from akashllm.market.order import API_KEY, Order, Outcome, Verdicts
from akashllm.market.progress import Progress
from akashllm.plan import DeployRequest, Plan
from akashllm.planning import explain
from akashllm.render import render_sdl
from akashllm.sdl import load
from akashllm.state import Deployment, Home, Store

MarketOption = Annotated[
    str,
    typer.Option(
        "--market", envvar="AKASHLLM_MARKET", help="local (this machine, free), console or wallet (Akash)."
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="PORT",
        min=1,
        max=65535,
        help="Port on this machine.  [default: any free one]",
        show_default=False,
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest wait for bids, and again for the model."),
]
Bid = Annotated[
    str,
    typer.Option(
        "--bid", metavar="HOW", help="Which bid to take: best, cheapest, ask, or a provider's address."
    ),
]
Why = Annotated[bool, typer.Option("--why", help="Say how each bid came to its place.")]
BidWait = Annotated[
    float,
    typer.Option("--bid-wait", metavar="SECONDS", min=0, help="Collect bids for so long after the first."),
]
MaxHours = Annotated[
    int | None,
    typer.Option(
        "--max-hours",
        metavar="HOURS",
        min=1,
        max=48,
        help="Have Akash's Console close it after so many hours, even if this machine is off.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and the SDL, and do nothing.")]

ATTEMPTS = 3
"""Providers that are tried, one after the other."""


def deploy(
    *,
    model: opt.Model = "tiny",
    engine: opt.Engine = "llamacpp",
    market: MarketOption = DEFAULT,
    name: opt.DeploymentName = None,
    context: opt.Context = None,
    concurrency: opt.Concurrency = None,
    quant: opt.Quant = None,
    gpu: opt.Gpu = None,
    gpu_count: opt.GpuCount = None,
    cpu: opt.Cpu = False,
    region: opt.Region = None,
    max_price: opt.MaxPrice = None,
    replicas: opt.Replicas = 1,
    image: opt.Image = None,
    port: Port = None,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    timeout: Timeout = 900.0,
    bid: Bid = "best",
    why: Why = False,
    bid_wait: BidWait = 20.0,
    max_hours: MaxHours = None,
    dry_run: DryRun = False,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Run a model; end with a verified URL and a key.

    Run again, it goes on where it was interrupted, or says that the model runs already.
    """
    out = Out(json=json)
    home = Home.find()
    chosen = market_named(market, home, port=port, hours=max_hours)
    if max_hours and not chosen.charges:
        raise UsageError("--max-hours is for Akash: this machine closes nothing by itself", hint="leave it out")
    if not dry_run:
        require_key(chosen)
    try:
        _deploy(
            out,
            home,
            chosen,
            request=DeployRequest(
                model=model,
                engine=opt.engine_named(engine),
                name=name,
                context=context,
                concurrency=concurrency,
                quant=quant,
                gpu=tuple(gpu or ()),
                gpu_count=gpu_count,
                cpu_only=cpu,
                region=region,
                max_price=max_price,
                replicas=replicas,
                image=image,
                local=market == "local",
            ),
            key=(api_key_env, api_key_file),
            timeout=timeout,
            taking=Taking(bid=bid, why=why, wait=bid_wait, hours=max_hours),
            dry_run=dry_run,
            yes=yes,
        )
    finally:
        hang_up([chosen])


@dataclass(frozen=True, slots=True)
class Taking:
    """How a bid is taken."""

    bid: str
    why: bool
    wait: float
    hours: int | None


def _deploy(
    out: Out,
    home: Home,
    market: Market,
    *,
    request: DeployRequest,
    key: tuple[str | None, Path | None],
    timeout: float,
    taking: Taking,
    dry_run: bool,
    yes: bool,
) -> None:
    plan = planned(request, prices=_prices(out, market))
    sdl = render_sdl(plan)
    load(sdl)
    for line in explain(plan):
        out.talk(line)
    if dry_run:
        out.document({"name": plan.name, "plan": plan.as_dict(), "sdl": sdl})
        out.lines(sdl.splitlines())
        return
    if market.charges:
        _worth_paying_for(plan)
    wish = wish_for(plan, taking.bid)
    order = Order(
        plan=plan,
        sdl=sdl,
        secrets=_secrets(plan, *key),
        timeout=timeout,
        attempts=ATTEMPTS if market.charges else 1,
    )
    with Store(home) as store:
        if market.charges and store.named(plan.name) is None:
            opt.confirm(_question(plan, taking.hours), yes=yes)
        if taking.hours:
            out.talk(
                f"Console is asked to close it {taking.hours} hours after it starts; an older one ignores that:"
                " look at console.akash.network, or close it yourself"
            )
        asks = taking.bid == "ask"
        try:
            with PlainProgress() if asks else shown() as progress:
                deployer = Deployer(market=market, store=store, verify=verify, progress=progress)
                if market.charges:
                    chooser = Chooser(wish, progress.note, ask=asks, why=taking.why)
                    deployer = replace(deployer, choose=chooser, gather=taking.wait)
                outcome = deployer.deploy(order)
        except KeyboardInterrupt:
            raise Interrupted(_still(store.named(plan.name))) from None
        except AkashllmError as error:
            raise WithDocument(error, _so_far(store, plan.name, error)) from error
    _show(out, outcome)


def _worth_paying_for(plan: Plan) -> None:
    """Refuse a lease that would cost money and serve nothing. Raises UsageError."""
    files = "`akashllm render` writes its SDL all the same"
    if plan.engine == "vllm":
        raise UsageError(
            "the vLLM image does not run its engine yet, so its lease would be paid in vain",
            hint=f"--engine ollama serves most of the same models; {files}",
        )
    if plan.engine == "llamacpp" and plan.model.kind != "bundled":
        raise UsageError(
            "the llama.cpp image does not fetch weights yet, so its lease would be paid in vain",
            hint=f"--engine ollama pulls its model; {files}",
        )


def verify(url: str, *, api_key: str, model: str, progress: Progress) -> Verdicts:
    """The smoke test, telling each verdict as it falls."""
    from akashllm import smoke

    return smoke.run(
        url,
        api_key=api_key,
        model=model,
        on_result=lambda result: progress.check(result.title, result.verdict, result.reason),
    )


def _prices(out: Out, market: Market) -> Mapping[str, Any] | None:
    """What GPUs cost on the market today, or None where it does not say."""
    if not isinstance(market, ConsoleMarket):
        return None
    try:
        return market.gpu_prices()
    except MarketError as error:
        out.talk(f"today's prices are not known ({error.message}): the table that comes with akashllm is used")
        return None


def _question(plan: Plan, hours: int | None) -> str:
    cap = "" if plan.max_price_hour is None else f" for at most ${plan.max_price_hour:.2f} an hour"
    until = f", closed after {hours} hours" if hours else ", until you close it"
    return f"Order {plan.name} on Akash{cap}{until}?"


def _secrets(plan: Plan, variable: str | None, file: Any) -> dict[str, str]:
    found = {name: os.environ[name] for name in plan.secrets if name != API_KEY and name in os.environ}
    key = opt.read_key(variable, file)
    return found if key is None else {**found, API_KEY: key}


def _still(row: Deployment | None) -> str:
    """What an interrupted deploy leaves behind, in one sentence."""
    if row is None:
        return "nothing was started"
    if row.dseq is None and row.step == "create":
        return f"an order may have been placed: the same command finds it, `akashllm close {row.name}` ends it"
    what = (
        f"still running: {row.name}" + (f" at {row.url}" if row.url else "")
        if row.dseq
        else "nothing is running"
    )
    return f"{what}; the same command goes on with it, `akashllm close {row.name}` ends it"


def _so_far(store: Store, name: str, error: AkashllmError) -> dict[str, Any]:
    """What there is in spite of an error."""
    row = store.named(name)
    if row is None or row.dseq is None:
        return {"name": name}
    document = {"name": name, "state": row.state, "url": row.url, "step": row.step}
    return {**document, "smoke": row.facts.get("smoke")} if isinstance(error, CheckFailed) else document


def _show(out: Out, outcome: Outcome) -> None:
    row = outcome.deployment
    message = {"role": "user", "content": "What is the capital of France?"}
    body = shlex.quote(dumps({"model": row.model, "messages": [message]}))
    curl = f'curl "$URL/v1/chat/completions" -H "Authorization: Bearer $KEY" -d {body}'
    out.document(
        {
            "name": row.name,
            "state": "ready",
            "already_running": outcome.already,
            "url": row.url,
            "api_key": outcome.key,
            "model": row.model,
            "engine": row.engine,
            "market": row.market,
            "dseq": row.dseq,
            "provider": row.provider,
            "sdl": row.sdl_path,
            "context": row.plan.get("context"),
            "price": row.plan.get("price_source"),
            "smoke": outcome.report.as_dict() if outcome.report else row.facts.get("smoke"),
            "curl": curl,
        }
    )
    if outcome.already:
        out.line(f"{row.name} is already running at {row.url}")
        out.line(f"`akashllm key {row.name}` prints its key")
        return
    out.talk("")
    out.line(f"{row.name} is ready. Its key is shown this once; `akashllm key {row.name}` prints it again.")
    out.line("")
    out.line(f"export URL={row.url}")
    out.line(f"export KEY={outcome.key}")
    out.line(curl)
    out.line("")
    out.line(f"SDL      {row.sdl_path}")
    out.line(f"record   akashllm status {row.name}   (akashllm logs, akashllm close)")
