"""WebSockets for code in threads, with TLS that one thread alone touches.

A connection of OpenSSL may be used by one thread at a time. `websockets.sync` reads in one thread and writes in
another; on a busy machine about one opening handshake in 200 then fails or hangs. Here an event loop in a
thread of its own does both, and whoever calls waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection


class WebSocket:
    """A connection, for any thread: one may read while another writes. Raises what `websockets` raises."""

    def __init__(self, portal: BlockingPortal, connection: Connection) -> None:
        self._portal = portal
        self._connection = connection

    def __iter__(self) -> Iterator[str | bytes]:
        """Messages as they come, until the other side has closed the connection well."""
        return self.messages()

    def messages(self, silence: float | None = None) -> Iterator[str | bytes]:
        """The same. Raises `TimeoutError` where none comes for `silence` seconds."""
        while True:
            try:
                message = self._portal.call(self._receive, silence)
            except ConnectionClosedOK:
                return
            yield message

    async def _receive(self, silence: float | None) -> str | bytes:
        async with asyncio.timeout(silence):
            return await self._connection.recv()

    def send(self, message: str | bytes) -> None:
        """Returns when it has been handed to the system."""
        self._portal.call(self._connection.send, message)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, and wait for the other side's."""
        self._portal.call(self._connection.close, code, reason)

    def abort(self) -> None:
        """Break the connection at once, whatever either side still has to say."""
        self._portal.call(self._connection.transport.abort)

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
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_Direct(uri, **options)) as connection,
    ):
        yield WebSocket(portal, connection)
