"""What an engine says while it builds and pushes, as typed events of whole lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["step", "line", "cached", "layer", "aux", "error"]

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_MAX_LINE = 2000
_HOUSEKEEPING = re.compile(
    r" ---> (?:Running in )?[0-9a-f]{12}|Removing intermediate container [0-9a-f]+|Removed intermediate .*"
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    step      `text` is the Dockerfile's instruction, `number` of `total`
    cached    the step before it came from the cache
    line      output of a step
    layer     `text` is the state of the layer `layer`; `number` of `total` bytes, 0 where unknown
    aux       `data` is what the engine answers for programs
    error     `text` is why it stopped
    """

    kind: Kind
    text: str = ""
    number: int = 0
    total: int = 0
    layer: str = ""
    data: Mapping[str, Any] | None = None


OnEvent = Callable[[Event], None]


def ignore(_: Event) -> None:
    """For callers that want to hear nothing."""


def read(messages: Iterable[Any]) -> Iterator[Event]:
    """The events of a decoded stream. Text is cut into lines; escapes and overwritten parts are left out."""
    pending = ""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        if "stream" in message:
            *lines, pending = (pending + str(message["stream"])).split("\n")
            for line in lines:
                yield from _line(line)
            if len(pending) > _MAX_LINE and not pending.startswith("Step "):
                # A progress bar redraws one line without ever ending it.
                pending = pending[-_MAX_LINE:]
            continue
        if pending:
            yield from _line(pending)
            pending = ""
        if message.get("error") or message.get("errorDetail"):
            detail = message.get("errorDetail") or {}
            text = detail.get("message") if isinstance(detail, Mapping) else None
            yield Event("error", plain(str(text or message.get("error"))))
        elif "aux" in message:
            yield Event("aux", data=message["aux"] if isinstance(message["aux"], Mapping) else {})
        elif "status" in message:
            yield _layer(message)
    if pending:
        yield from _line(pending)


def plain(text: str) -> str:
    """What would stay on a terminal's line: no escapes, and only what follows the last carriage return."""
    return _ESCAPES.sub("", text).rstrip("\r").rpartition("\r")[2][:_MAX_LINE]


def _line(text: str) -> Iterator[Event]:
    text = plain(text)
    if match := _STEP.fullmatch(text):
        yield Event("step", " ".join(match[3].split()), int(match[1]), int(match[2]))
    elif text.strip() == "---> Using cache":
        yield Event("cached")
    elif text.strip() and not _HOUSEKEEPING.fullmatch(text):
        yield Event("line", text)


def _layer(message: Mapping[str, Any]) -> Event:
    progress = message.get("progressDetail")
    if not isinstance(progress, dict):
        progress = {}
    return Event(
        "layer",
        plain(str(message["status"])),
        int(progress.get("current") or 0),
        int(progress.get("total") or 0),
        plain(str(message.get("id") or "")),
    )
