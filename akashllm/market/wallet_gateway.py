"""A provider's gateway as Akash's own command reaches it: it checks it and signs a token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from akashllm.errors import ProviderFailed
from akashllm.market.base import Lease, LogLine
from akashllm.market.console_errors import cleaned
from akashllm.market.gateway import Ran
from akashllm.market.wallet_cli import Cli
from akashllm.market.wallet_read import flowing
from akashllm.market.wallet_words import Grammar, LeaseAt

_SHELL_SECONDS = 600.0
_STATUS = re.compile(r"exited with code (\d{1,3})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletGateway:
    """Asks with one key."""

    cli: Cli
    grammar: Grammar
    key: str

    def logs(self, lease: Lease, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """What the services wrote."""
        for line in flowing(self.cli.pieces(self.grammar.logs(self._at(lease), follow=follow, tail=tail))):
            yield LogLine(service=cleaned(str(line.get("name", ""))), text=str(line.get("message", "")))

    def events(self, lease: Lease, *, follow: bool = False) -> Iterator[LogLine]:
        """What the provider's cluster tells: images that cannot be pulled, containers that were ended."""
        for event in flowing(self.cli.pieces(self.grammar.events(self._at(lease), follow=follow))):
            about = event.get("object")
            name = about.get("name", "") if isinstance(about, dict) else ""
            words = f"{event.get('type', '')} {event.get('reason', '')}: {event.get('note', '')}"
            yield LogLine(service=cleaned(str(name)), text=words.strip())

    def shell(self, lease: Lease, service: str, command: Sequence[str]) -> Ran:
        """Run a command in a service's first container, without a terminal, and wait for its end.

        The command's own word for a bad end is a sentence with the number in it (LeaseShell of its client).
        """
        words = self.grammar.shell(self._at(lease), service, command)
        ran = self.cli(words, seconds=_SHELL_SECONDS)
        if ran.status == 0:
            return Ran(0, ran.out.encode(), ran.err.encode())
        told = _STATUS.search(ran.words)
        if told is None:
            raise ProviderFailed(
                f"the command could not be run: {ran.words or 'it took too long'}",
                hint="the service itself may be well: `akashllm status` asks it",
            )
        lines = [line for line in ran.err.splitlines(keepends=True) if not line.startswith("Error: ")]
        return Ran(int(told[1]), ran.out.encode(), "".join(lines).encode())

    def _at(self, lease: Lease) -> LeaseAt:
        return LeaseAt(key=self.key, dseq=lease.dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)
