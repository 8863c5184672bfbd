"""A provider's gateway as Akash's own command reaches it: it checks it and signs a token."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from akashllm.errors import ConnectionLost, ProviderFailed
from akashllm.market.base import Lease, LogLine
from akashllm.market.console_errors import cleaned
from akashllm.market.console_read import items, mapping
from akashllm.market.shell import Tell, Terminal, checked, counted
from akashllm.market.wallet_cli import Cli, Ran
from akashllm.market.wallet_read import documents, flowing
from akashllm.market.wallet_words import Grammar, LeaseAt

_SUBMITTED = "Manifest submitted successfully"
"""All that akt prints; provider-services prints a list of results."""

_STATUS = re.compile(r"exited with code (\d{1,3})\b")
_BROKEN = re.compile(r"receiving from websocket|websocket: close")


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletGateway:
    """Asks with one key."""

    cli: Cli
    grammar: Grammar
    key: str

    def hand(self, lease: Lease, sdl: Path) -> None:
        """Give the provider its manifest. Raises `ProviderFailed` where it is not certain that it has it."""
        ran = self.cli(self.grammar.manifest(self._at(lease), sdl))
        lists = (found for found in documents(ran.out) if isinstance(found, list))
        results = [mapping(one) for found in lists for one in items(found)]
        failed = [one for one in results if one.get("status") != "PASS"]
        # A success that does not name the provider is no word of the provider's.
        if ran.status == 0 and not failed and (results or _SUBMITTED in ran.out):
            return
        why = str(failed[0].get("errorMessage") or failed[0].get("error") or "") if failed else ran.words
        raise ProviderFailed(
            f"the provider {lease.provider} did not take the manifest: {cleaned(why) or 'it does not say why'}",
            hint="try again; the deployment stays as it is",
        )

    def logs(
        self, lease: Lease, *, follow: bool = False, tail: int | None = None, service: str | None = None
    ) -> Iterator[LogLine]:
        """What the services wrote, or one of them."""
        asked = self.grammar.logs(self._at(lease), follow=follow, tail=tail, service=service)
        for line in flowing(self.cli.pieces(asked)):
            yield LogLine(service=cleaned(str(line.get("name", ""))), text=str(line.get("message", "")))

    def events(self, lease: Lease, *, follow: bool = False) -> Iterator[LogLine]:
        """What the provider's cluster tells: images that cannot be pulled, containers that were ended."""
        for event in flowing(self.cli.pieces(self.grammar.events(self._at(lease), follow=follow))):
            about = event.get("object")
            name = about.get("name", "") if isinstance(about, dict) else ""
            words = f"{event.get('type', '')} {event.get('reason', '')}: {event.get('note', '')}"
            yield LogLine(service=cleaned(str(name)), text=words.strip())

    def run(
        self, lease: Lease, service: str, command: Sequence[str], tell: Tell, *, stdin: bytes | None = None
    ) -> int:
        """Run a command in a service's first container, without a terminal; its exit code.

        What it writes to stderr comes at its end, as the command adds its own complaints there.
        """
        words = checked(command) if stdin is None else counted(checked(command), stdin)
        asked = self.grammar.shell(self._at(lease), service, words, stdin=stdin is not None)
        ran = self.cli.fed(asked, tell, stdin)
        status = _exit_status(ran)
        lines = [line for line in ran.err.splitlines(keepends=True) if not line.startswith("Error: ")]
        tell("".join(lines).encode(), True)
        return status

    def attach(self, lease: Lease, service: str, command: Sequence[str], terminal: Terminal) -> int:
        """Run a command on the terminal here, which is the command's for so long; its exit code."""
        words = self.grammar.shell(self._at(lease), service, checked(command), tty=True, stdin=True)
        with terminal.lent():
            ran = self.cli.lent(words)
        if ran.status == -signal.SIGINT:
            raise KeyboardInterrupt
        return _exit_status(ran)

    def _at(self, lease: Lease) -> LeaseAt:
        return LeaseAt(key=self.key, dseq=lease.dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)


def _exit_status(ran: Ran) -> int:
    """The command's own word for a bad end is a sentence with the number in it (LeaseShell of its client)."""
    if ran.status == 0:
        return 0
    if told := _STATUS.search(ran.words):
        return int(told[1])
    if _BROKEN.search(ran.words):
        raise ConnectionLost("the connection to the container broke; what ran in it may still run")
    raise ProviderFailed(
        f"the command could not be run: {ran.words or 'no reason is given'}",
        hint="`akashllm status` says whether the service runs, and `akashllm events` why not",
    )
