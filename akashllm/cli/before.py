"""Before anything is ordered: what it may cost, whether it would serve, the secrets it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akashllm.cli import options as opt
from akashllm.cli.out import Out
from akashllm.errors import MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import API_KEY
from akashllm.plan import Plan


def prices(out: Out, market: Market) -> Mapping[str, Any] | None:
    """What GPUs cost on the market today, or None where it does not say."""
    if not isinstance(market, ConsoleMarket):
        return None
    try:
        return market.gpu_prices()
    except MarketError as error:
        out.talk(f"today's prices are not known ({error.message}): the table that comes with akashllm is used")
        return None


def worth_paying_for(plan: Plan) -> None:
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


def question(plan: Plan, hours: int | None) -> str:
    """What a person is asked before money is spent."""
    cap = "" if plan.max_price_hour is None else f" for at most ${plan.max_price_hour:.2f} an hour"
    until = f", closed after {hours} hours" if hours else ", until you close it"
    return f"Order {plan.name} on Akash{cap}{until}?"


def secrets(plan: Plan, variable: str | None, file: Path | None) -> dict[str, str]:
    """Values for the plan's placeholders: the key that was given, the rest from the environment."""
    found = {name: os.environ[name] for name in plan.secrets if name != API_KEY and name in os.environ}
    key = opt.read_key(variable, file)
    return found if key is None else {**found, API_KEY: key}
