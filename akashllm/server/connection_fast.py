"""The same patience over httptools, the fast parser; importing this needs it installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.types import Message, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from akashllm.server.connection import Patience

if TYPE_CHECKING:

    class _Base:
        cycle: Any

        def on_headers_complete(self) -> None: ...
        def on_message_complete(self) -> None: ...

else:
    _Base = HttpToolsProtocol


class PatientHttpTools(Patience, _Base):
    """Knows from the parser's callbacks where in a message it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outside = True

    def on_headers_complete(self) -> None:
        """The head is over."""
        self._outside = False
        super().on_headers_complete()
        if self.cycle.scope["http_version"] == "1.0":
            cycle: Any = self.cycle
            cycle.send = _unchunked(cycle)

    def on_message_complete(self) -> None:
        """So is the body."""
        self._outside = True
        self._head.clear()
        super().on_message_complete()

    def _in_head(self) -> bool:
        return self._outside


def _unchunked(cycle: Any) -> Send:
    """`cycle.send` for HTTP/1.0, which knows no chunks: a body of unknown length ends with the connection.

    RFC 9112, 6.1: no Transfer-Encoding in a response to HTTP/1.0. h11 keeps to it, uvicorn over httptools not.
    """
    send: Send = cycle.send
    unknown = False

    async def plain(message: Message) -> None:
        nonlocal unknown
        if message["type"] == "http.response.start":
            unknown = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if unknown:
                cycle.chunked_encoding = False
                cycle.keep_alive = False
        elif unknown:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return plain
