"""The same patience over httptools, the fast parser; importing this needs it installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from akashllm.server.connection import Patience

if TYPE_CHECKING:

    class _Base:
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

    def on_message_complete(self) -> None:
        """So is the body."""
        self._outside = True
        self._head.clear()
        super().on_message_complete()

    def _in_head(self) -> bool:
        return self._outside
