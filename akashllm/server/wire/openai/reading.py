"""Typed reading of a decoded JSON object; every complaint names its exact field (`messages[0].content`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akashllm.errors import BadRequest

_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def kind(value: object) -> str:
    """What JSON calls the value, with its article."""
    return _KINDS.get(type(value), "something else")


def wrong_type(param: str, wanted: str, value: object) -> BadRequest:
    """The error for a value of the wrong JSON type."""
    return BadRequest(f"'{param}' must be {wanted}, not {kind(value)}", param=param, code="invalid_type")


def missing(param: str) -> BadRequest:
    """The error for a parameter that must be there."""
    return BadRequest(f"'{param}' is required", param=param, code="missing_required_parameter")


def invalid(param: str, message: str, *, code: str = "invalid_value") -> BadRequest:
    """The error for a value of the right type that makes no sense."""
    return BadRequest(f"'{param}' {message}", param=param, code=code)


class Fields:
    """A JSON object and where it stands in the request. A field that is null reads as absent."""

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self.path = path

    def at(self, key: str) -> str:
        """The path of a field, as error messages write it."""
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str) -> Any:
        """The raw value, or None."""
        return self.values.get(key)

    def _wrong(self, key: str, wanted: str, value: object) -> BadRequest:
        return wrong_type(self.at(key), wanted, value)

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "a boolean", value)
        return value

    def string(self, key: str) -> str | None:
        """A string, which may be empty."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def required_string(self, key: str) -> str:
        """A string that must be there."""
        value = self.string(key)
        if value is None:
            raise missing(self.at(key))
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number within bounds, both included."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number", value)
        if isinstance(value, float) and not math.isfinite(value):
            raise invalid(self.at(key), "must be a finite number")
        if value < low:
            raise invalid(self.at(key), f"must be at least {low:g}", code="decimal_below_min_value")
        if value > high:
            raise invalid(self.at(key), f"must be at most {high:g}", code="decimal_above_max_value")
        return float(value)

    def integer(self, key: str, low: int | None = None, high: int | None = None) -> int | None:
        """An integer within bounds, both included. `5.0` is an integer: some languages write it so."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "an integer", value)
        if low is not None and value < low:
            raise invalid(self.at(key), f"must be at least {low}", code="integer_below_min_value")
        if high is not None and value > high:
            raise invalid(self.at(key), f"must be at most {high}", code="integer_above_max_value")
        return value

    def array(self, key: str) -> Sequence[Any] | None:
        """An array of anything."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self._wrong(key, "an array", value)
        return value

    def object(self, key: str) -> Fields | None:
        """An object."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return Fields(value, self.at(key))

    def required_object(self, key: str) -> Fields:
        """An object that must be there."""
        value = self.object(key)
        if value is None:
            raise missing(self.at(key))
        return value

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of an array; nothing where it is absent."""
        for position, value in enumerate(self.array(key) or ()):
            path = f"{self.at(key)}[{position}]"
            if not isinstance(value, dict):
                raise wrong_type(path, "an object", value)
            yield Fields(value, path)

    def choice(self, key: str, allowed: Sequence[str]) -> str | None:
        """One of a few strings."""
        value = self.string(key)
        if value is not None and value not in allowed:
            names = ", ".join(allowed)
            raise invalid(self.at(key), f"must be one of {names}", code="unsupported_value")
        return value
