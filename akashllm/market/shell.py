"""Commands inside a container: what a market offers, and what a terminal here must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from akashllm.errors import UsageError
from akashllm.market.base import Lease

MAX_STDIN = 64 << 20
"""Bytes that can be piped into a command."""

Tell = Callable[[bytes, bool], None]
"""Takes a piece of the output as it comes, and whether it is of stderr."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    status: int
    out: bytes
    err: bytes


class Session(Protocol):
    """A command on a terminal of its own, elsewhere. Input and output may be in two threads."""

    def send(self, keys: bytes) -> None:
        """What was typed. Raises `OSError` once the connection has ended."""
        ...

    def resize(self, columns: int, lines: int) -> None:
        """How large the terminal is here."""
        ...

    def output(self) -> Iterator[bytes]:
        """What it writes, until the command ends. Raises `ConnectionLost` where its end was never told."""
        ...

    def status(self) -> int:
        """Its exit code, after the output."""
        ...

    def hang_up(self) -> None:
        """Let go of it: then the output ends."""
        ...


class Terminal(Protocol):
    """The terminal here."""

    def attach(self, session: Session) -> int:
        """Join it with a session until that ends; the command's exit code."""
        ...

    def lent(self) -> AbstractContextManager[None]:
        """Leave it to another program for a while. It is as before afterwards."""
        ...


@runtime_checkable
class Shells(Protocol):
    """Reaches into the containers of leases."""

    def run(
        self, lease: Lease, service: str, command: Sequence[str], tell: Tell, *, stdin: bytes | None = None
    ) -> int:
        """Run a command without a terminal; its exit code. None as `stdin`: nothing to read."""
        ...

    def attach(self, lease: Lease, service: str, command: Sequence[str], terminal: Terminal) -> int:
        """Run a command on the terminal here; its exit code."""
        ...


def counted(command: Sequence[str], stdin: bytes) -> list[str]:
    """`command`, reading just so many bytes: the gateway's protocol cannot tell the end of the input."""
    return ["sh", "-c", 'n=$1; shift; head -c "$n" | "$@"', "sh", str(len(stdin)), *command]


def checked(command: Sequence[str]) -> Sequence[str]:
    """Raises `UsageError` for an empty word: a gateway takes it for the end of the command."""
    if not all(command):
        raise UsageError(
            "Akash cannot carry an empty word in a command", hint="put it into a script: -- sh -c 'x \"\"'"
        )
    return command
