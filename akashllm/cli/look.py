"""What can be deployed and what it would take: models, plan, version."""

from __future__ import annotations

import dataclasses
import platform
from typing import Annotated

import typer

from akashllm.catalog import Catalog, Model
from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.before import live_prices as todays
from akashllm.cli.out import Out
from akashllm.cli.wanted import takes_request
from akashllm.plan import DeployRequest
from akashllm.planning import explain
from akashllm.version import __version__

Search = Annotated[
    str | None, typer.Option("--search", metavar="TEXT", help="Only models in which every word occurs.")
]
Local = Annotated[bool, typer.Option("--local", help="For this machine: no GPU of the market, no price.")]


def models(*, search: Search = None, json: opt.Json = False) -> None:
    """The models that are known by a short name."""
    out = Out(json=json)
    catalog = Catalog.load()
    found = catalog.search(search) if search else catalog.models
    out.document({"models": [{**dataclasses.asdict(model), "engines": _engines(model)} for model in found]})
    if not found:
        out.talk(
            "no model of the catalogue matches; a repository of the Hugging Face hub can be named directly"
        )
        return
    head = ("ALIAS", "SIZE", "CONTEXT", "TASK", "ENGINES", "LICENCE")
    rows = [
        (
            m.alias,
            m.billions,
            m.context,
            m.task,
            ",".join(_engines(m)),
            m.licence + (" (gated)" if m.gated else ""),
        )
        for m in found
    ]
    out.table([head, *rows])


@takes_request()
def plan(
    *,
    request: DeployRequest,
    local: Local = False,
    live_prices: opt.LivePrices = False,
    json: opt.Json = False,
) -> None:
    """What a model needs and may cost.

    Memory line by line, the GPUs that hold it, the price cap. Changes nothing.
    """
    out = Out(json=json)
    made = planned(dataclasses.replace(request, local=local), prices=todays(out) if live_prices else None)
    out.document({**made.as_dict(), "memory_gib": made.memory_gib, "digest": made.digest()})
    out.lines(explain(made))


def version(*, json: opt.Json = False) -> None:
    """The version."""
    out = Out(json=json)
    out.document({"version": __version__, "python": platform.python_version()})
    out.line(f"akashllm {__version__}")


def _engines(model: Model) -> list[str]:
    from akashllm.planning.wanted import engines_of

    return list(engines_of(model))
