"""WebSockets for code in threads, with TLS that one thread alone touches.

A connection of OpenSSL may be used by one thread at a time. `websockets.sync` reads in one thread and writes in
another; on a busy machine about one opening handshake in 200 then fails or hangs. Here an event loop in a
thread of its own does both, and whoever calls waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own. A context manager; what still runs at its end is cancelled."""

    def __init__(self) -> None:
        self._up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._live()), name="websockets")

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have it run there; what comes of it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._up.set()
        await self._over.wait()


class WebSocket:
    """A connection, for any thread: one may read while another writes. Raises what `websockets` raises."""

    def __init__(self, loop: Loop, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection

    def __iter__(self) -> Iterator[str | bytes]:
        """Messages as they come, until the other side has closed the connection well."""
        return self.messages()

    def messages(self, silence: float | None = None) -> Iterator[str | bytes]:
        """The same. Raises `TimeoutError` where none comes for `silence` seconds."""
        while True:
            try:
                message = self._loop.call(self._receive(silence))
            except ConnectionClosedOK:
                return
            yield message

    async def _receive(self, silence: float | None) -> str | bytes:
        async with asyncio.timeout(silence):
            return await self._connection.recv()

    def send(self, message: str | bytes) -> None:
        """Returns when it has been handed to the system."""
        self._loop.call(self._connection.send(message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, and wait for the other side's."""
        self._loop.call(self._connection.close(code, reason))

    def abort(self) -> None:
        """Break the connection at once, whatever either side still has to say."""
        self._loop.call(self._abort())

    async def _abort(self) -> None:
        self._connection.transport.abort()

    @property
    def close_code(self) -> int | None:
        """Why the other side closed it; None while it is open."""
        return self._connection.close_code

    def option(self, level: int, name: int, value: int) -> None:
        """Set an option of the socket, unless the connection has ended already."""
        own: socket.socket | None = self._connection.transport.get_extra_info("socket")
        if own is not None:
            with suppress(OSError):
                own.setsockopt(level, name, value)


class _Direct(connect):
    """Goes where it was told: a token for one host is not carried on to another."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


@contextmanager
def websocket(uri: str, **options: Any) -> Iterator[WebSocket]:
    """Connect; `options` are those of `websockets.asyncio.client.connect`. No redirect is followed."""
    with Loop() as loop:
        connecting = _Direct(uri, **options)
        connection = loop.call(connecting.__aenter__())
        try:
            yield WebSocket(loop, connection)
        finally:
            loop.call(connecting.__aexit__(None, None, None))
