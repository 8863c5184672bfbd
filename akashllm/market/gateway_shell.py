"""The frames of a gateway's shell (akash-network/provider, gateway/rest/router.go and client_shell.go).

Binary messages, their first byte the kind. Nothing tells the end of the input. A command that could not be
started comes as a result with a message, and its exit code is then 0; a failure has no words.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from akashllm.errors import ConnectionLost, ProviderFailed
from akashllm.market.console_errors import cleaned
from akashllm.market.shell import Tell

if TYPE_CHECKING:
    from akashllm.market.websocket import WebSocket

STDOUT, STDERR, RESULT, FAILURE, STDIN, RESIZE = 100, 101, 102, 103, 104, 105
_PIECE = 1 << 15
_PREFIX = "remote command execute error: "
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def shell_query(service: str, command: Sequence[str], *, tty: bool, stdin: bool) -> dict[str, str]:
    """What the address of a shell asks for. Sizes of the terminal are read only where stdin is."""
    words = {f"cmd{number}": word for number, word in enumerate(command)}
    return {"service": service, "podIndex": "0", "tty": str(int(tty)), "stdin": str(int(stdin)), **words}


@dataclass(slots=True)
class GatewaySession:
    """One command. `akashllm.market.shell.Session`."""

    connection: WebSocket
    _status: int | None = None

    def send(self, keys: bytes) -> None:
        """Typed, or piped in."""
        self._send(bytes([STDIN]) + keys)

    def resize(self, columns: int, lines: int) -> None:
        """Width before height, 16 bits each, the high byte first."""
        self._send(struct.pack(">BHH", RESIZE, min(columns, 0xFFFF), min(lines, 0xFFFF)))

    def output(self) -> Iterator[bytes]:
        """Both streams as one: a terminal has no second."""
        for data, _ in self.pieces():
            yield data

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Pieces of the output, and whether they are of stderr."""
        from websockets.exceptions import ConnectionClosedError

        try:
            for frame in self.connection:
                if not isinstance(frame, bytes) or not frame:
                    continue
                kind, data = frame[0], frame[1:]
                if kind in {STDOUT, STDERR}:
                    yield data, kind == STDERR
                elif kind == RESULT:
                    self._status = _exit_status(data)
                    return
                elif kind == FAILURE:
                    raise _not_run(cleaned(data.decode(errors="replace")))
        except ConnectionClosedError as error:
            # A close code of the gateway's own says more than we can.
            if error.rcvd is not None and error.rcvd.code >= 4000:
                raise
        if self.connection.close_code is None or self.connection.close_code < 4000:
            raise ConnectionLost("the connection to the container broke; what ran in it may still run")

    def status(self) -> int:
        """As the provider told it."""
        if self._status is None:
            raise ConnectionLost("the end of the command was never told")
        return self._status

    def hang_up(self) -> None:
        """At once, whatever either side still has to say."""
        self.connection.abort()

    def watch(self) -> None:
        """Have the system notice a peer that is gone.

        Without stdin the gateway never reads, so it answers no ping.
        """
        self.connection.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self.connection.option(socket.IPPROTO_TCP, getattr(socket, name), value)

    def run(self, tell: Tell, stdin: bytes | None) -> int:
        """Feed it and tell its output at the same time: either alone could block the other."""
        feeder = Thread(target=self._feed, args=(stdin or b"",))
        feeder.start()
        try:
            for data, of_stderr in self.pieces():
                tell(data, of_stderr)
        finally:
            if feeder.is_alive():
                self.hang_up()
            feeder.join()
        return self.status()

    def _feed(self, stdin: bytes) -> None:
        with suppress(OSError):
            for place in range(0, len(stdin), _PIECE):
                self.send(stdin[place : place + _PIECE])

    def _send(self, frame: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self.connection.send(frame)
        except ConnectionClosed:
            raise BrokenPipeError("the connection has ended") from None


def _exit_status(data: bytes) -> int:
    try:
        told: Any = json.loads(data)
    except (ValueError, RecursionError):
        told = None
    code = told.get("exit_code", 0) if isinstance(told, dict) else None
    if not isinstance(code, int):
        raise _not_run("its result cannot be read")
    if message := told.get("message"):
        raise _not_run(cleaned(str(message)).removeprefix(_PREFIX))
    return code


def _not_run(why: str) -> ProviderFailed:
    return ProviderFailed(
        f"the command could not be run: {why or 'the provider does not say why'}",
        hint="`akashllm status` says whether the service runs, and `akashllm events` why not",
    )
