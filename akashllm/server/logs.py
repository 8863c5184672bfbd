"""Logs: one line a request and one an event, as JSON or text, never a body and never a key."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from akashllm.server.settings import Settings

access = logging.getLogger("akashllm.access")

_WIDTH = 2000
"""Characters of a message that are kept; a traceback has five times as many."""
_MARK = "[key]"
_PROBES = frozenset({"/health", "/livez", "/metrics"})
"""Routes that machines ask every few seconds: their lines show at debug level only."""


@dataclass(slots=True)
class Record:
    """What one request adds to its line. Times in seconds."""

    request_id: str = "-"
    first_token: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


_NOBODY = Record()
current: ContextVar[Record] = ContextVar("current", default=_NOBODY)
"""The record of the request that is being served; a shared one outside of any."""


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send everything of ours and of the server to one stream (stderr), in one format, without secrets."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter((_Json if settings.log_format == "json" else _Text)(settings.keys))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    level = settings.log_level.upper()
    logging.getLogger("akashllm").setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        theirs = logging.getLogger(name)
        theirs.handlers[:] = []
        theirs.propagate = True
        theirs.setLevel(max(logging.getLevelName(level), logging.WARNING))
    logging.captureWarnings(capture=True)


def request_line(method: str, route: str, status: int, seconds: float, record: Record) -> None:
    """The one line of a finished request. `route` is the path's template, so no path or query is logged."""
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
        "request_id": record.request_id,
    }
    if record.completion_tokens or record.prompt_tokens:
        fields["prompt_tokens"] = record.prompt_tokens
        fields["completion_tokens"] = record.completion_tokens
        fields["cached_tokens"] = record.cached_tokens
    if record.first_token is not None:
        fields["first_token_ms"] = round(record.first_token * 1000, 1)
    level = logging.DEBUG if route in _PROBES else logging.INFO
    access.log(level, "request", extra={"fields": fields})


class _Plain(logging.Formatter):
    """Cuts what is long and blanks what is secret."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__()
        self._keys = keys

    def parts(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any]]:
        """The message, the traceback (or "") and the fields."""
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        message = self.clean(record.getMessage())
        if len(message) > _WIDTH:
            message = f"{message[:_WIDTH]}... ({len(message)} characters)"
        return message, self.clean(trace)[-5 * _WIDTH :], getattr(record, "fields", {})

    def clean(self, text: str) -> str:
        """`text` without the service's keys."""
        for key in self._keys:
            text = text.replace(key, _MARK)
        return text


class _Json(_Plain):
    def format(self, record: logging.LogRecord) -> str:
        message, trace, fields = self.parts(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **fields,
        }
        asked = current.get().request_id
        if asked != "-":
            line.setdefault("request_id", asked)
        if trace:
            line["trace"] = trace
        return json.dumps(line)


class _Text(_Plain):
    def format(self, record: logging.LogRecord) -> str:
        message, trace, fields = self.parts(record)
        words = [message, *(f"{name}={value}" for name, value in fields.items())]
        shown = " ".join(words).encode("unicode_escape").decode()
        clock = time.strftime("%H:%M:%S", time.gmtime(record.created))
        return f"{clock} {record.levelname.lower():7} {record.name}: {shown}" + (f"\n{trace}" if trace else "")
