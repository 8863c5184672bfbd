"""What a parser makes of a model's output: text, thinking and tool calls, in order."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final, Literal, Protocol

import msgspec

from akashllm.server.chat.jsonend import DEPTH
from akashllm.server.domain import Tool, ToolCall

_ALPHABET: Final = string.ascii_lowercase + string.digits
_NAMES: Final = ("name", "tool_name", "function")
_ARGUMENTS: Final = ("arguments", "parameters", "args")


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """More text, more thinking, or one whole tool call."""

    kind: Literal["text", "thinking", "tool_call"]
    text: str = ""
    call: ToolCall | None = None


class OutputParser(Protocol):
    """Reads an output as it comes.

    Nothing is lost but the markers of thinking and calls and the white space (up to 64 characters) that adjoins
    them. What looks like a call and is none comes out as the text it is. Work is linear in the output, however
    it is cut into parts, and the parts do not change what comes out.
    """

    def feed(self, text: str) -> list[Piece]:
        """Take more of the output; give what is certain by now."""
        ...

    def end(self) -> list[Piece]:
        """Give what was held back. Nothing may be fed after that."""
        ...


class CallReader:
    """Makes tool calls of what a model wrote. Only calls of the given tools are calls."""

    def __init__(self, tools: Sequence[Tool], rng: random.Random | None = None) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._rng = rng or random.SystemRandom()

    def call(self, name: object, arguments: object) -> ToolCall | None:
        """A call of a known tool with an object (or the JSON text of one) as arguments, or None."""
        if not isinstance(name, str) or name not in self.tools:
            return None
        if isinstance(arguments, str):
            arguments = read_json(arguments or "{}")
        if not isinstance(arguments, dict):
            return None
        identity = "".join(self._rng.choice(_ALPHABET) for _ in range(8))
        return ToolCall(id=f"call_{identity}", name=name, arguments=write_json(arguments))

    def calls(self, value: object) -> list[ToolCall] | None:
        """The calls of a JSON object or list of objects; None if any of it is not a call."""
        items = value if isinstance(value, list) else [value]
        calls = [self._object(item) for item in items]
        found = [call for call in calls if call is not None]
        return found if found and len(found) == len(calls) else None

    def _object(self, item: object) -> ToolCall | None:
        if not isinstance(item, dict):
            return None
        fields: dict[str, Any] = item["function"] if isinstance(item.get("function"), dict) else item
        name = next((fields[key] for key in _NAMES if key in fields), None)
        return self.call(name, next((fields[key] for key in _ARGUMENTS if key in fields), {}))


class _NotJson(ValueError):
    pass


def read_json(text: str) -> Any:
    """The value of JSON text, or None if it is none. Line breaks in strings are allowed: models write them.

    What is nested so deeply that another reader of JSON may give up is none: it has to be written again.
    """
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if _shallow(value) else None


def _shallow(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH + 1):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [one for several in inner for one in several if isinstance(one, dict | list)]
        if not level:
            return True
    return False


def write_json(value: object) -> str:
    """JSON text that any encoder can carry: half surrogates stay escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodable(text) else json.dumps(value)


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with neighbours of one kind put together."""
    out: list[Piece] = []
    for kind, run in groupby(pieces, key=lambda piece: piece.kind):
        if kind == "tool_call":
            out += run
        else:
            out.append(Piece(kind, "".join(piece.text for piece in run)))
    return out


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> float:
    raise _NotJson(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotJson(text)
    return value
