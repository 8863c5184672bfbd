"""The values a template works with, and what Go's rules say of them.

Go's bool, int, float64 and string are Python's; `[]any` is a list, `map[string]any` a dict, a struct a
`Record`. `None` is no value. `NIL` is an interface that holds nothing: it prints and tests as `None` does, but
asking it for a field is an error rather than nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from akashllm.server.chat.go.faults import OperandFault


class _Nil:
    """The type of `NIL`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NIL"


NIL: Final = _Nil()


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a struct: its name in templates, in JSON, and whether JSON leaves it out when empty."""

    name: str
    key: str
    value: Any
    omitted: bool = False


class Record:
    """A struct: the fields it has and no others."""

    __slots__ = ("_by_name", "parts", "type")

    def __init__(self, kind: str, *parts: Part) -> None:
        self.type = kind
        self.parts = parts
        self._by_name = {part.name: part.value for part in parts}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]


class JsonRecord(Record):
    """A struct that prints as JSON."""

    __slots__ = ()


class JsonList(list[Any]):
    """A list that prints as JSON."""


class JsonMap(dict[str, Any]):
    """A map that prints as JSON."""


class Words(list[str]):
    """The types of a property: one prints and is written as itself."""


def held(value: Any) -> Any:
    """What is in an interface."""
    return None if value is NIL else value


def element(value: Any) -> Any:
    """A value as it comes out of a list or a map."""
    return NIL if value is None else value


def type_name(value: Any) -> str:
    """The Go type, for complaints."""
    if isinstance(value, Record):
        return value.type
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return "interface {}"


_TYPES: Final = (
    (bool, "bool"),
    (int, "int"),
    (float, "float64"),
    (str, "string"),
    (list, "[]interface {}"),
    (dict, "map[string]interface {}"),
)


def truth(value: Any) -> bool:
    """Whether a value is not the zero of its type. A struct always is."""
    if isinstance(value, Record):
        return True
    return bool(held(value))


def length(value: Any) -> int:
    """`len`: bytes of a string, elements of a list or map."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(_utf8(value))
    if isinstance(value, list | dict):
        return len(value)
    if value is NIL:
        raise OperandFault("len of nil pointer")
    raise OperandFault("len of untyped nil" if value is None else f"len of type {type_name(value)}")


def index(item: Any, keys: Sequence[Any]) -> Any:
    """`index x 1 2`: x[1][2]. A key a map has not gives nothing, a place a list has not is an error."""
    item = held(item)
    if item is None:
        raise OperandFault("index of untyped nil")
    for key in map(held, keys):
        if item is None or item is NIL:
            raise OperandFault("index of nil pointer")
        if isinstance(item, dict):
            if not isinstance(key, str):
                fault = "value is nil" if key is None else f"value has type {type_name(key)}"
                raise OperandFault(f"{fault}; should be string")
            item = element(item.get(key))
        elif isinstance(item, str):
            item = _utf8(item)[_place(key, len(_utf8(item)) - 1)]
        elif isinstance(item, list):
            item = element(item[_place(key, len(item) - 1)])
        else:
            raise OperandFault(f"can't index item of type {type_name(item)}")
    return item


def cut(item: Any, places: Sequence[Any]) -> Any:
    """`slice x 1 2`: x[1:2], of a string by bytes."""
    item = held(item)
    if item is None:
        raise OperandFault("slice of untyped nil")
    if len(places) > 3:
        raise OperandFault(f"too many slice indexes: {len(places)}")
    if isinstance(item, str):
        if len(places) == 3:
            raise OperandFault("cannot 3-index slice a string")
        data = _utf8(item)
        start, end = _bounds(places, len(data))
        return data[start:end].decode(errors="replace")
    if not isinstance(item, list):
        raise OperandFault(f"can't slice item of type {type_name(item)}")
    start, end = _bounds(places, len(item))
    return type(item)(item[start:end])


def _bounds(places: Sequence[Any], size: int) -> tuple[int, int]:
    found = [0, size, size]
    for at, place in enumerate(map(held, places)):
        found[at] = _place(place, size)
    for low, high in ((found[0], found[1]), (found[1], found[2])):
        if low > high:
            raise OperandFault(f"invalid slice index: {low} > {high}")
    return found[0], found[1]


def _place(place: Any, last: int) -> int:
    if place is None:
        raise OperandFault("cannot index slice/array with nil")
    if not isinstance(place, int) or isinstance(place, bool):
        raise OperandFault(f"cannot index slice/array with type {type_name(place)}")
    if not 0 <= place <= last:
        raise OperandFault(f"index out of range: {place}")
    return place


def equal(first: Any, *others: Any) -> bool:
    """`eq`: whether the first is one of the others. Numbers of two types do not compare."""
    if not others:
        raise OperandFault("missing argument for comparison")
    first, kind = held(first), _kind(first)
    for other in map(held, others):
        if kind != _kind(other):
            if first is not None and other is not None:
                raise OperandFault("incompatible types for comparison")
            same = False
        elif kind:
            same = first == other
        elif first is None or other is None:
            same = _is_nil(first) and _is_nil(other)
        else:
            raise OperandFault(f"non-comparable type {type_name(other)}")
        if same:
            return True
    return False


def _is_nil(value: Any) -> bool:
    """Whether a value is nil in Go: an empty list of messages' tool calls or of tools is."""
    return value is None or (isinstance(value, JsonList) and not value)


def less(first: Any, second: Any) -> bool:
    """`lt`: numbers of one type, or strings by bytes."""
    first, second = held(first), held(second)
    one, other = _kind(first), _kind(second)
    if not one or not other:
        raise OperandFault("invalid type for comparison")
    if one != other:
        raise OperandFault("incompatible types for comparison")
    if one == "bool":
        raise OperandFault("invalid type for comparison")
    if one == "string":
        return _utf8(first) < _utf8(second)
    return bool(first < second)


def _kind(value: Any) -> str:
    """The basic kind, empty for what does not compare by value."""
    name = type_name(value)
    return name if name in {"bool", "int", "float64", "string"} else ""


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
