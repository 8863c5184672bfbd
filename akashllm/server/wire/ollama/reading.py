"""Typed reading of a decoded JSON object, with the complaints Go's `encoding/json` would make.

Clients, and people, have learnt Ollama's texts: `json: cannot unmarshal number into Go struct field
GenerateRequest.model of type string`. Keys match without regard to case, null leaves a field unset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from akashllm.errors import BadRequest

_INT64 = range(-(1 << 63), 1 << 63)


def kind(value: object) -> str:
    """What Go calls a JSON value that does not fit."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def mismatch(value: object, path: str, wanted: str, *, exact: bool = False) -> NoReturn:
    """Refuse a value of the wrong type. `exact` adds the number itself, as Go does where it does not fit."""
    found = f"number {value}"[:64] if exact else kind(value)
    raise BadRequest(
        f"json: cannot unmarshal {found} into Go struct field {path} of type {wanted}",
        param=path.partition(".")[2],
    )


class Fields:
    """A JSON object of a request. `path` is the Go type and the fields that lead to it."""

    __slots__ = ("_values", "path")

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values = {key.lower(): value for key, value in values.items()}
        self.path = path

    def at(self, key: str) -> str:
        """Where a field stands, as Go writes it."""
        return f"{self.path}.{key}"

    def get(self, key: str) -> Any:
        """The value as it came, or None."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """A string; empty if absent."""
        value = self._values.get(key)
        if value is None:
            return ""
        return value if isinstance(value, str) else mismatch(value, self.at(key), "string")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self._values.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else mismatch(value, self.at(key), "bool")

    def integer(self, key: str) -> int:
        """A whole number of 64 bits; 0 if absent."""
        value = self._values.get(key)
        return 0 if value is None else _whole(value, self.at(key))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; empty if absent."""
        path = self.at(key)
        return tuple(_whole(item, path) for item in self.items(key, "[]int"))

    def items(self, key: str, wanted: str) -> list[Any]:
        """A list of anything; empty if absent. `wanted` is its Go type."""
        value = self._values.get(key)
        if value is None:
            return []
        return value if isinstance(value, list) else mismatch(value, self.at(key), wanted)

    def object(self, key: str, wanted: str) -> dict[str, Any]:
        """An object as it came; empty if absent. `wanted` is its Go type."""
        value = self._values.get(key)
        if value is None:
            return {}
        return value if isinstance(value, dict) else mismatch(value, self.at(key), wanted)

    def nested(self, key: str, wanted: str) -> Fields:
        """An object whose fields are read in turn."""
        return Fields(self.object(key, wanted), self.at(key))

    def each(self, key: str, wanted: str) -> Iterator[Fields]:
        """The objects of a list, to be read in turn. `wanted` is the Go type of one."""
        path = self.at(key)
        for item in self.items(key, f"[]{wanted}"):
            if item is None:
                yield Fields({}, path)
            elif isinstance(item, dict):
                yield Fields(item, path)
            else:
                mismatch(item, path, wanted)


def _whole(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        mismatch(value, path, "int")
    if isinstance(value, float) or value not in _INT64:
        mismatch(value, path, "int", exact=True)
    return value
