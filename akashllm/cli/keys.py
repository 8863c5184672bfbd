"""`key`: the key of a deployment, or another one for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.markets import market_of
from akashllm.cli.operate import recorded
from akashllm.cli.out import Out
from akashllm.cli.revising import known_secrets, runs_now
from akashllm.cli.taking import Timeout
from akashllm.cli.updating import updating
from akashllm.errors import UsageError
from akashllm.market.driver import ADMIN_FILE, new_key
from akashllm.market.order import Order
from akashllm.market.updating import NEXT_KEY
from akashllm.plan import Plan
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

Rotate = Annotated[bool, typer.Option("--rotate", help="Exchange it for a new one.")]
Admin = Annotated[bool, typer.Option("--admin", help="The key of who manages its models (--manage).")]
Where = Annotated[bool, typer.Option("--where", help="Print the file that holds it, not the key.")]


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
        command = f"akashllm key {row.name} --rotate"
        if rotate:
            market = market_of(markets, row)
            sdl = runs_now(row)
            opt.confirm(f"Exchange the key of {row.name}? It restarts, and clients need the new one.", yes=yes)
            new = read_private(unfinished).strip() if unfinished.exists() else new_key("ak")
            order = Order(
                plan=Plan.from_dict(row.plan),
                sdl=sdl,
                secrets=known_secrets(store, row, sdl, sdl),
                timeout=timeout,
            )
            with updating(store, row, market, command, {"name": row.name}) as updater:
                updater.in_place(row, order, key=new)
            out.talk(f"{row.name} answers to its new key, and to the old one no longer")
        elif unfinished.exists():
            out.talk(f"warning: an exchange of it was not finished: `{command}` ends it")
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
