"""What `deploy` says in the end: a URL and a key, or what is left of an attempt."""

from __future__ import annotations

import shlex
from json import dumps
from typing import Any

from akashllm.cli.out import Out
from akashllm.errors import AkashllmError, CheckFailed, MarketError
from akashllm.market.base import LimitsRuntime, Market
from akashllm.market.order import Outcome
from akashllm.state import Deployment, Store


def still(row: Deployment | None) -> str:
    """What a deploy that did not come to its end leaves behind, in one sentence."""
    if row is None:
        return "nothing was started"
    if row.dseq is None and row.step == "create":
        return f"an order may have been placed: the same command finds it, `akashllm close {row.name}` ends it"
    if row.dseq is None:
        what = "nothing is running"
    elif row.url:
        what = f"still running: {row.name} at {row.url}"
    else:
        what = f"still open: {row.name}, number {row.dseq}"
    return f"{what}; the same command goes on with it, `akashllm close {row.name}` ends it"


def so_far(store: Store, name: str, error: AkashllmError) -> dict[str, Any]:
    """What there is in spite of an error."""
    row = store.named(name)
    if row is None or row.dseq is None:
        return {"name": name}
    document = {"name": name, "state": row.state, "url": row.url, "step": row.step}
    return {**document, "smoke": row.facts.get("smoke")} if isinstance(error, CheckFailed) else document


def closing(out: Out, market: Market, outcome: Outcome, hours: int | None) -> int | None:
    """The hours after which Console has said that it closes it: what was asked is read back, not believed."""
    dseq = outcome.deployment.dseq
    if not isinstance(market, LimitsRuntime) or dseq is None or hours is None:
        return None
    try:
        limit = market.limit(dseq)
    except MarketError as error:
        out.talk(f"warning: whether Console closes it after {hours} hours is not known: {error.message}")
        return None
    if limit is None:
        out.talk(
            f"warning: this Console does not close it after {hours} hours, it knows no such limit: close it"
            f" yourself, or let `akashllm watch {outcome.deployment.name}` do it"
        )
        return None
    when = f", at {limit.ends}" if limit.ends else ""
    out.talk(f"Console closes it {limit.hours} hours after its start{when}")
    return limit.hours


def show(out: Out, outcome: Outcome, *, closes: int | None = None) -> None:
    """The URL, the key and how to use them."""
    row = outcome.deployment
    message = {"role": "user", "content": "What is the capital of France?"}
    body = shlex.quote(dumps({"model": row.model, "messages": [message], "temperature": 0}))
    curl = f'curl "$URL/v1/chat/completions" -H "Authorization: Bearer $KEY" -d {body}'
    out.document(
        {
            "name": row.name,
            "state": "ready",
            "already_running": outcome.already,
            "url": row.url,
            "api_key": outcome.key,
            **({"admin_key": outcome.admin} if outcome.admin else {}),
            "model": row.model,
            "engine": row.engine,
            "market": row.market,
            "dseq": row.dseq,
            "provider": row.provider,
            "sdl": row.sdl_path,
            "context": row.plan.get("context"),
            "price": row.plan.get("price_source"),
            "closes_after_hours": closes,
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
    if outcome.admin:
        out.line(f"export ADMIN_KEY={outcome.admin}   # `akashllm key {row.name} --admin` prints it again")
    out.line(curl)
    out.line("")
    out.line(f"SDL      {row.sdl_path}")
    out.line(f"record   akashllm status {row.name}   (akashllm logs, akashllm close)")
