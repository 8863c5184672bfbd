"""What happens at the provider: events of its cluster, and commands inside a container."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out
from akashllm.cli.text import safe
from akashllm.errors import MarketError, NoSuchDeployment
from akashllm.market.base import Lease, Market
from akashllm.market.console import ConsoleMarket
from akashllm.market.gateway import Gateway
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_gateway import WalletGateway
from akashllm.state import Deployment

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen; Ctrl-C ends it.")]
Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run, after two hyphens.")]
Service = Annotated[str, typer.Option("--service", help="Service of the SDL.")]


def events(name: opt.Name, *, follow: Follow = False, json: opt.Json = False) -> None:
    """What the provider's cluster says of a deployment.

    An image that cannot be pulled, or a container that is ended for its memory, shows here.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name)
        gateway, lease = _gateway(row, markets.get(row.market))
        lines = gateway.events(lease, follow=follow and not json)
        if json:
            shown = [{"object": line.service, "text": line.text} for line in lines]
            out.document({"name": row.name, "events": shown})
            return
        try:
            for line in lines:
                out.line(f"{line.service}  {line.text}")
        except KeyboardInterrupt:
            raise Interrupted(f"{row.name} goes on; only the view of its events has ended") from None


def shell(name: opt.Name, command: Command, *, service: Service = "llm", json: opt.Json = False) -> None:
    """Run a command inside a deployment's container.

    Ends with the command's own exit code. There is no terminal inside: nothing interactive.
    """
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name)
        gateway, lease = _gateway(row, markets.get(row.market))
        ran = gateway.shell(lease, service, command)
    text, errors = (data.decode(errors="replace") for data in (ran.out, ran.err))
    out.document({"name": row.name, "status": ran.status, "out": text, "err": errors})
    if not json:
        for stream, words in ((sys.stdout, text), (sys.stderr, errors)):
            stream.write(safe(words, lines=True) if stream.isatty() else words)
    raise typer.Exit(ran.status)


def _gateway(row: Deployment, market: Market | None) -> tuple[Gateway | WalletGateway, Lease]:
    if row.dseq is None:
        raise NoSuchDeployment(
            f"{row.name} was never started", hint=f"`akashllm status {row.name}` says how far it is"
        )
    if not isinstance(market, (ConsoleMarket, WalletMarket)):
        raise MarketError(
            f"{row.name} is not at a provider", hint=f"`akashllm logs {row.name}` shows what it writes"
        )
    return market.gateway(row.dseq)
