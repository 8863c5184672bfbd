"""HTTP connections that lose patience: uvicorn's protocols with a clock and a scale for the headers.

uvicorn bounds neither the time nor (with httptools) the size of a request's head. Both protocols get the same
two rules here, and hand the application a way to cut a connection, which ASGI lacks (`akashllm.abort`).
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    _Base = H11Protocol
else:
    _Base = object

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINGER = 2.0
"""Seconds in which a refused client may still read why; closing at once would reset the connection first."""


class Patience(_Base):
    """Mixed in before one of uvicorn's protocols. Set `header_timeout` and `max_header_bytes` on a subclass."""

    header_timeout: float = 20.0
    max_header_bytes: int = 32 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = bytearray()
        self._since: float | None = None
        self._refused = False
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Start the clock."""
        super().connection_made(transport)
        self.app = _Abortable(self.app, transport)
        self._since = self.loop.time()
        self._clock = self.loop.call_later(self.header_timeout, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._clock is not None:
            self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Weigh the head before it is parsed; time whatever does not become a request."""
        if self._refused:
            return
        if self._in_head():
            seen = max(0, len(self._head) - 3)
            self._head += data[: self.max_header_bytes + 1]
            end = _BLANK_LINE.search(self._head, seen)
            size = len(self._head) if end is None else end.end()
            if size > self.max_header_bytes:
                self._refuse()
                return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or not self._in_head():
            self._head.clear()
        if self._busy() or self._between():
            self._since = None
        elif self._since is None:
            self._since = self.loop.time()

    def _busy(self) -> bool:
        """Whether the application has a request: from here on it is the one to lose patience."""
        cycle: Any = self.cycle  # None before the first request, which uvicorn's annotation does not say
        return cycle is not None and not cycle.response_complete

    def _in_head(self) -> bool:
        """Whether the next byte belongs to a request line or a header."""
        raise NotImplementedError

    def _between(self) -> bool:
        """Whether the last request is complete and nothing of the next one is here."""
        return self._in_head() and not self._head

    def _look(self) -> None:
        now = self.loop.time()
        if self._since is not None and now - self._since >= self.header_timeout and not self._busy():
            self.transport.abort()
            return
        self._clock = self.loop.call_later(self.header_timeout / 4, self._look)

    def _refuse(self) -> None:
        long_line = b"\n" not in self._head
        status = b"414 URI Too Long" if long_line else b"431 Request Header Fields Too Large"
        words = b"the request line is too long" if long_line else b"the headers are too large"
        self._refused = True
        self._head.clear()
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, len(words), words)
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.abort)


class PatientH11(Patience, H11Protocol):
    """The pure Python parser."""

    def _in_head(self) -> bool:
        return self.conn.their_state in {h11.IDLE, h11.DONE}


class _Abortable:
    """The application, told how to cut the connection it serves."""

    def __init__(self, app: Any, transport: asyncio.Transport) -> None:
        self._app: ASGIApp = app
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["akashllm.abort"] = self._transport.abort
        await self._app(scope, receive, send)


def patient(header_timeout: float, max_header_bytes: int, *, pure: bool = False) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn: httptools where it is installed, unless `pure` asks for h11."""
    parser: type[asyncio.Protocol] = PatientH11
    if not pure:
        try:
            from akashllm.server.connection_fast import PatientHttpTools
        except ImportError:
            pass
        else:
            parser = PatientHttpTools
    return type(
        parser.__name__, (parser,), {"header_timeout": header_timeout, "max_header_bytes": max_header_bytes}
    )
