"""Reading one mapping of a configuration: every fault is noted with its path, none ends the reading."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from typing import Any

from akashllm.server.values import Fault, duration


class Fields:
    """One mapping of the file, its keys in the spelling with underscores; unknown ones are faults.

    `fault` is told the path and the words of each.
    """

    def __init__(self, fault: Callable[[str, str], None], path: str, tree: Any, known: tuple[str, ...]) -> None:
        self._fault = fault
        self._path = path
        self._values: dict[str, Any] = {}
        self._spelled: dict[str, str] = {}
        if not isinstance(tree, dict):
            fault(path, f"must be a mapping, not {kind(tree)}")
            return
        for key, value in tree.items():
            name = _snake(str(key))
            if name not in known:
                fault(self._join(str(key)[:80]), _unknown(str(key), known))
            elif name in self._values:
                fault(self._join(str(key)), f"is there twice: also as {self._spelled[name]}")
            else:
                self._values[name] = value
                self._spelled[name] = str(key)

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def spelled(self, name: str) -> str:
        """A key as the file has it."""
        return self._spelled.get(name, name)

    def at(self, name: str) -> str:
        """The path of a key."""
        return self._join(self.spelled(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Whatever is there; null counts as nothing."""
        value = self._values.get(name)
        return default if value is None else value

    def _as(self, name: str, read: Callable[[Any], Any]) -> Any:
        value = self.get(name)
        if value is None:
            return None
        try:
            return read(value)
        except Fault as fault:
            self._fault(self.at(name), str(fault))
            return None

    def text(self, name: str) -> str:
        """A text, or empty."""

        def read(value: Any) -> str:
            if not isinstance(value, str):
                raise Fault(f"must be a text, not {kind(value)}")
            if any(ord(char) < ord(" ") and char not in "\n\t" for char in value):
                raise Fault("has a control character in it")
            return value

        return self._as(name, read) or ""

    def texts(self, name: str) -> list[str]:
        """A list of texts, or one."""

        def read(value: Any) -> list[str]:
            found = [value] if isinstance(value, str) else value
            if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
                raise Fault("must be a list of texts")
            return found

        return self._as(name, read) or []

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of some words."""

        def read(value: Any) -> str:
            if value not in allowed:
                raise Fault(f"must be one of {', '.join(allowed)}{_meant(str(value), allowed)}")
            return str(value)

        found: str | None = self._as(name, read)
        return found

    def integer(self, name: str, least: int, most: int) -> int | None:
        """A whole number between two others."""

        def read(value: Any) -> int:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Fault(f"must be a whole number, not {kind(value)}")
            if value != value // 1:
                raise Fault("must be a whole number")
            if not least <= value <= most:
                raise Fault(f"must be from {least} to {most}")
            return int(value)

        found: int | None = self._as(name, read)
        return found

    def seconds(self, name: str) -> float | None:
        """Seconds as a number, or a duration such as `5m`; negative: forever."""

        def read(value: Any) -> float:
            if isinstance(value, str):
                return parse(value)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise Fault("must be seconds, or a duration such as 5m")
            return parse(f"{value:f}")

        parse: Callable[[str], float] = duration(None)
        found: float | None = self._as(name, read)
        return found


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()


def _unknown(key: str, known: tuple[str, ...]) -> str:
    return f"is not a key this service knows{_meant(_snake(key), known, camel='_' not in key)}"


def _meant(word: str, known: tuple[str, ...], *, camel: bool = False) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if not close:
        return ""
    return f"; did you mean {_camel(close[0]) if camel else close[0]}?"


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(part.capitalize() for part in rest)


def kind(value: Any) -> str:
    """What a value is, in words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "something else"
