"""Reading the JSON of a stream: strict first, then once more for what only a broken engine writes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from akashllm.server.engines.upstream.faults import garbage, in_band


def decode(data: bytes) -> dict[str, Any]:
    """One object of a stream. Raises the error it holds, or `EngineDied` if it is no object at all.

    Half surrogates and bytes that are not UTF-8 become U+FFFD: an engine that cuts its text in the middle of
    a character writes them, and one bad character is no reason to lose an answer.
    """
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        value = _leniently(data)
    if not isinstance(value, dict):
        raise garbage("something that is no JSON object")
    if value.get("error"):
        raise in_band(value)
    return value


def _leniently(data: bytes) -> Any:
    try:
        return _whole(json.loads(data.decode("utf-8", "replace")))
    except (ValueError, RecursionError) as error:
        raise garbage("something that is not JSON") from error


def _whole(value: Any) -> Any:
    """The value with half surrogates replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def text(value: object) -> str:
    """A text, or none."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int:
    """A number of tokens or of nanoseconds, 0 for anything that is none."""
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def entries(value: object) -> list[dict[str, Any]]:
    """The objects of a list, if it is one."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def vectors(value: object) -> tuple[tuple[float, ...], ...]:
    """The vectors of an answer. Raises `EngineDied` for what is no list of lists of numbers."""
    try:
        return msgspec.convert(value, tuple[tuple[float, ...], ...])
    except msgspec.ValidationError as error:
        raise garbage("embeddings that are no vectors") from error
