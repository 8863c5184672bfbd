"""`deploy`: from a model's name to a verified URL."""

from __future__ import annotations

import os
import shlex
from json import dumps
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.markets import DEFAULT, market_named
from akashllm.cli.out import Interrupted, Out, WithDocument
from akashllm.cli.progress import shown
from akashllm.errors import AkashllmError, CheckFailed
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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and the SDL, and do nothing.")]


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
    dry_run: DryRun = False,
    yes: opt.Yes = False,
    json: opt.Json = False,
) -> None:
    """Run a model; end with a verified URL and a key.

    Run again, it goes on where it was interrupted, or says that the model runs already.
    """
    del yes  # Nothing that is free asks a question.
    out = Out(json=json)
    home = Home.find()
    chosen = market_named(market, home, port=port)
    plan = planned(
        DeployRequest(
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
        )
    )
    sdl = render_sdl(plan)
    load(sdl)
    for line in explain(plan):
        out.talk(line)
    if dry_run:
        out.document({"name": plan.name, "plan": plan.as_dict(), "sdl": sdl})
        out.lines(sdl.splitlines())
        return
    order = Order(plan=plan, sdl=sdl, secrets=_secrets(plan, api_key_env, api_key_file), timeout=timeout)
    with Store(home) as store:
        try:
            with shown() as progress:
                deployer = Deployer(market=chosen, store=store, verify=verify, progress=progress)
                outcome = deployer.deploy(order)
        except KeyboardInterrupt:
            raise Interrupted(_still(store.named(plan.name))) from None
        except AkashllmError as error:
            raise WithDocument(error, _so_far(store, plan.name, error)) from error
    _show(out, outcome)


def verify(url: str, *, api_key: str, model: str, progress: Progress) -> Verdicts:
    """The smoke test, telling each verdict as it falls."""
    from akashllm import smoke

    return smoke.run(
        url,
        api_key=api_key,
        model=model,
        on_result=lambda result: progress.check(result.title, result.verdict, result.reason),
    )


def _secrets(plan: Plan, variable: str | None, file: Any) -> dict[str, str]:
    found = {name: os.environ[name] for name in plan.secrets if name != API_KEY and name in os.environ}
    key = opt.read_key(variable, file)
    return found if key is None else {**found, API_KEY: key}


def _still(row: Deployment | None) -> str:
    """What an interrupted deploy leaves behind, in one sentence."""
    if row is None:
        return "nothing was started"
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
