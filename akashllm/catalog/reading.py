"""TOML tables into frozen types: every key known, every type right, or a message that names the place."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeVar

from akashllm.errors import UsageError

T = TypeVar("T")


def table(name: str) -> dict[str, Any]:
    """The parsed TOML file of that name in this package."""
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def build(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass of `kind` from plain data; `where` names the entry in complaints."""
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in hints:
            raise UsageError(f"{where}: unknown key {key!r}")
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return kind(**values)
    except TypeError as fault:
        raise UsageError(f"{where}: {str(fault).rpartition('__init__() ')[2]}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise UsageError(f"{where}: {value!r} is none of {', '.join(map(str, typing.get_args(hint)))}")
        return value
    if origin in {typing.Union, types.UnionType}:
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return None if value is None else _value(inner[0], value, where)
    if origin is tuple:
        first = typing.get_args(hint)[0]
        if isinstance(value, Mapping):
            kind = typing.get_args(first)[1]
            return tuple((key, _value(kind, item, f"{where}.{key}")) for key, item in value.items())
        if not isinstance(value, list):
            raise UsageError(f"{where}: a list was expected")
        return tuple(_value(first, item, where) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{where}: {hint.__name__} was expected, not {type(value).__name__}")
    return value
