"""What happens where a deployment runs: its log, its cluster's events, and commands inside a container."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.markets import market_of
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out
from akashllm.cli.terminal import Console, interactive, piped_in
from akashllm.cli.text import safe
from akashllm.errors import AkashllmError, MarketError, NoSuchDeployment, UsageError
from akashllm.market.base import Lease, LogLine, Market
from akashllm.market.console import ConsoleMarket
from akashllm.market.gateway import Gateway
from akashllm.market.shell import Shells
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_gateway import WalletGateway
from akashllm.sdl import load
from akashllm.state import Deployment

SHELL = "/bin/sh"
_USUAL = "llm"

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as it comes; Ctrl-C ends it.")]
Tail = Annotated[int | None, typer.Option("--tail", "-n", metavar="LINES", min=0, help="Last lines only.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND", help=f"What to run, after two hyphens; else {SHELL}."),
]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        metavar="SERVICE",
        help="Service of the SDL, where it has several.  [default: llm, or the only one]",
    ),
]
OneService = Annotated[
    str | None,
    typer.Option("--service", metavar="SERVICE", help="One service of the SDL, where it has several."),
]
NoTty = Annotated[
    bool, typer.Option("--no-tty", help="Without a terminal inside, as where stdin or stdout is none.")
]


def logs(
    name: opt.Name,
    *,
    follow: Follow = False,
    tail: Tail = None,
    service: OneService = None,
    json: opt.Json = False,
) -> None:
    """What a deployment's service wrote.

    Of a closed deployment too, if it ran on this machine. Where there are several services, each line begins
    with the container that wrote it.
    """
    if follow and json:
        raise UsageError(
            "a log that is followed is no single JSON document", hint="leave out --follow or --json"
        )
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name, closed=True)
        if row.dseq is None:
            raise NoSuchDeployment(
                f"{row.name} was never started: there is no log", hint=f"`akashllm status {row.name}` says why"
            )
        known = _services(row, service)
        try:
            lines = _lines(market_of(markets, row), row.dseq, follow=follow, tail=tail, service=service)
            if json:
                shown = [{"service": line.service, "text": line.text} for line in lines]
                out.document({"name": row.name, "lines": shown})
                return
            several = service is None and len(known) > 1
            for line in lines:
                out.line(f"{line.service}  {line.text}" if several else line.text)
        except KeyboardInterrupt:
            raise Interrupted(f"{row.name} goes on; only the view of its log has ended") from None


def _lines(
    market: Market, dseq: str, *, follow: bool, tail: int | None, service: str | None
) -> Iterator[LogLine]:
    """The log; on this machine there is only one service."""
    if service is None or not isinstance(market, (ConsoleMarket, WalletMarket)):
        return market.logs(dseq, follow=follow, tail=tail)
    gateway, lease = market.gateway(dseq)
    return gateway.logs(lease, follow=follow, tail=tail, service=service)


def events(name: opt.Name, *, follow: Follow = False, json: opt.Json = False) -> None:
    """What the provider's cluster says of a deployment.

    An image that cannot be pulled, or a container that is ended for its memory, shows here.
    """
    if follow and json:
        raise UsageError(
            "events that are followed are no single JSON document", hint="leave out --follow or --json"
        )
    out = Out(json=json)
    with recorded() as (store, markets):
        row = store.find(name)
        try:
            gateway, lease = gateway_of(row, markets.get(row.market))
            lines = gateway.events(lease, follow=follow)
            if json:
                shown = [{"object": line.service, "text": line.text} for line in lines]
                out.document({"name": row.name, "events": shown})
                return
            for line in lines:
                out.line(f"{line.service}  {line.text}")
        except KeyboardInterrupt:
            raise Interrupted(f"{row.name} goes on; only the view of its events has ended") from None


def shell(
    name: opt.Name,
    command: Command = None,
    *,
    service: Service = None,
    no_tty: NoTty = False,
    json: opt.Json = False,
) -> None:
    """A shell, or a command, inside a deployment's container.

    On a terminal it has a terminal inside, and every key goes there. What is piped in is read to its end first,
    then forwarded; --json gathers the output. Ends with the command's own exit code.
    """
    out = Out(json=json)
    on_terminal = interactive() and not (no_tty or json)
    with recorded() as (store, markets):
        row = store.find(name)
        shells, lease = _shells(row, markets.get(row.market))
        where, words = _service(row, service), command or [SHELL]
        if on_terminal:
            raise typer.Exit(shells.attach(lease, where, words, Console()))
        gathered = (bytearray(), bytearray())
        status = shells.run(
            lease,
            where,
            words,
            (lambda data, of_stderr: gathered[of_stderr].extend(data)) if json else _show,
            stdin=piped_in(always=not command),
        )
    text, errors = (data.decode(errors="replace") for data in gathered)
    out.document({"name": row.name, "status": status, "out": text, "err": errors})
    raise typer.Exit(status)


def _show(data: bytes, of_stderr: bool) -> None:
    """As it came; on a terminal, where it could do harm, without control characters."""
    stream = sys.stderr if of_stderr else sys.stdout
    if stream.isatty():
        stream.write(safe(data.decode(errors="replace"), lines=True))
    else:
        stream.buffer.write(data)
    stream.flush()


def _services(row: Deployment, wanted: str | None) -> list[str]:
    """The services of its SDL; none where that is not known. Raises `UsageError` if `wanted` is no such."""
    try:
        known = list(load(Path(row.sdl_path).read_text(encoding="utf-8")).services) if row.sdl_path else []
    except (OSError, AkashllmError):
        known = []
    if wanted is not None and known and wanted not in known:
        raise UsageError(f"{row.name} has no such service", hint=f"it has {', '.join(known)}")
    return known


def _service(row: Deployment, wanted: str | None) -> str:
    """The service that is meant. Raises `UsageError` where that cannot be told."""
    known = _services(row, wanted)
    if wanted is not None or _USUAL in known or not known:
        return wanted or _USUAL
    if len(known) > 1:
        raise UsageError(f"{row.name} has several services", hint=f"add --service {' or '.join(known)}")
    return known[0]


def _shells(row: Deployment, market: Market | None) -> tuple[Shells, Lease]:
    """What reaches into the containers of a deployment."""
    if row.dseq is not None and row.market == "docker":
        from akashllm.market.container import ContainerMarket
        from akashllm.market.container_shell import ContainerShells

        if isinstance(market, ContainerMarket):
            return ContainerShells(market), Lease(dseq=row.dseq, provider=row.provider or "")
    if row.market == "local":
        raise MarketError(
            f"{row.name} is a process on this machine: there is no container to go into",
            hint=f"`akashllm logs {row.name}` shows what it writes; "
            "`akashllm deploy --market local --container` runs a model in one",
        )
    return gateway_of(row, market)


def gateway_of(row: Deployment, market: Market | None) -> tuple[Gateway | WalletGateway, Lease]:
    """The gateway of its provider, and its lease. Raises `MarketError` where it is at none."""
    if row.dseq is None:
        raise NoSuchDeployment(
            f"{row.name} was never started", hint=f"`akashllm status {row.name}` says how far it is"
        )
    if not isinstance(market, (ConsoleMarket, WalletMarket)):
        raise MarketError(
            f"{row.name} is not at a provider", hint=f"`akashllm logs {row.name}` shows what it writes"
        )
    return market.gateway(row.dseq)
