"""Commands inside a container of this machine's Docker engine (`POST /containers/{id}/exec`)."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

from docker.errors import APIError
from docker.utils import socket as frames

from akashllm.errors import ConnectionLost
from akashllm.images import DockerEngine
from akashllm.market.base import Lease
from akashllm.market.container import ContainerMarket
from akashllm.market.shell import Tell, Terminal

_PIECE = 1 << 15
_LOST = "the connection to the container broke; what ran in it may still run"


@dataclass(slots=True)
class ContainerSession:
    """One command. `akashllm.market.shell.Session`."""

    engine: DockerEngine
    id: str
    connection: socket.socket
    tty: bool

    def send(self, keys: bytes) -> None:
        """Typed, or piped in."""
        self.connection.sendall(keys)

    def end_input(self) -> None:
        """Nothing more is piped in."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def resize(self, columns: int, lines: int) -> None:
        """Docker takes the height first. A command that has just ended has no size."""
        with suppress(APIError):
            self.engine.api.exec_resize(self.id, height=lines, width=columns)

    def output(self) -> Iterator[bytes]:
        """As it comes."""
        for data, _ in self.pieces():
            yield data

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Pieces of the output, and whether they are of stderr."""
        try:
            read: Any = frames.frames_iter
            for stream, data in read(self.connection, tty=self.tty):
                yield data, stream == frames.STDERR
        except ConnectionError:
            raise ConnectionLost(_LOST) from None

    def status(self) -> int:
        """As the engine has it."""
        found = self.engine.api.exec_inspect(self.id)
        if found.get("Running") or found.get("ExitCode") is None:
            raise ConnectionLost(_LOST)
        return int(found["ExitCode"])

    def hang_up(self) -> None:
        """Let go of it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class ContainerShells:
    """Reaches into the one container of a deployment. `akashllm.market.shell.Shells`."""

    market: ContainerMarket

    def run(
        self, lease: Lease, service: str, command: Sequence[str], tell: Tell, *, stdin: bytes | None = None
    ) -> int:
        """Run a command without a terminal; its exit code."""
        del service
        with self._session(lease, command, tty=False, stdin=stdin is not None) as session:
            feeder = Thread(target=_feed, args=(session, stdin or b""))
            feeder.start()
            try:
                for data, of_stderr in session.pieces():
                    tell(data, of_stderr)
            finally:
                if feeder.is_alive():
                    session.hang_up()
                feeder.join()
            return session.status()

    def attach(self, lease: Lease, service: str, command: Sequence[str], terminal: Terminal) -> int:
        """Run a command on the terminal here; its exit code."""
        del service
        with self._session(lease, command, tty=True, stdin=True) as session:
            return terminal.attach(session)

    @contextmanager
    def _session(
        self, lease: Lease, command: Sequence[str], *, tty: bool, stdin: bool
    ) -> Iterator[ContainerSession]:
        with self.market.running(lease.dseq) as (engine, container):
            made = engine.api.exec_create(container, list(command), tty=tty, stdin=stdin)["Id"]
            stream: Any = engine.api.exec_start(made, tty=tty, socket=True)
            # The SDK gives a file around the socket, or the socket itself where the engine is reached over TLS.
            connection: socket.socket = getattr(stream, "_sock", stream)
            # A command may be silent for longer than an answer of the engine.
            connection.settimeout(None)
            try:
                yield ContainerSession(engine, made, connection, tty)
            finally:
                stream.close()
                connection.close()


def _feed(session: ContainerSession, stdin: bytes) -> None:
    with suppress(OSError):
        for place in range(0, len(stdin), _PIECE):
            session.send(stdin[place : place + _PIECE])
    session.end_input()
