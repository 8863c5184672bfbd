"""The functions a template may call: Go's own, and Ollama's four."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from akashllm.server.chat.go import printing
from akashllm.server.chat.go.faults import OperandFault
from akashllm.server.chat.go.values import Record, cut, equal, held, index, length, less, truth, type_name


class Known(NamedTuple):
    """A function and how many arguments it takes; `most` None for any number."""

    run: Callable[..., Any]
    least: int
    most: int | None


def _printf(*values: Any) -> str:
    pattern = held(values[0])
    if not isinstance(pattern, str):
        raise OperandFault(f"wrong type for value; expected string; got {type_name(pattern)}")
    return printing.sprintf(pattern, values[1:])


def _date(days: int) -> Callable[..., str]:
    """The date so many days from now, where the service runs. A format is ignored, as by Ollama."""

    def run(*formats: Any) -> str:
        if not all(isinstance(one, str) for one in formats):
            raise OperandFault("expected string")
        return (datetime.now().astimezone() + timedelta(days=days)).strftime("%Y-%m-%d")

    return run


_TYPESCRIPT: Final = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _typescript(value: Any) -> str:
    """A tool's property as a type of TypeScript (`ToTypeScriptType` in Ollama's api/types.go)."""
    if not isinstance(value, Record) or "Type" not in value:
        return "any"
    several: Sequence[Any] = value["AnyOf"] or ()
    if several:
        return " | ".join(map(_typescript, several))
    return " | ".join(_TYPESCRIPT.get(word, "any") for word in value["Type"]) or "any"


def _not_run(*_values: Any) -> Any:
    raise OperandFault("and, or are run by the interpreter")


FUNCTIONS: Final[Mapping[str, Known]] = {
    "and": Known(_not_run, 1, None),
    "or": Known(_not_run, 1, None),
    "not": Known(lambda value: not truth(value), 1, 1),
    "eq": Known(equal, 1, None),
    "ne": Known(lambda first, second: not equal(first, second), 2, 2),
    "lt": Known(less, 2, 2),
    "le": Known(lambda first, second: less(first, second) or equal(first, second), 2, 2),
    "gt": Known(lambda first, second: not (less(first, second) or equal(first, second)), 2, 2),
    "ge": Known(lambda first, second: not less(first, second), 2, 2),
    "len": Known(length, 1, 1),
    "index": Known(lambda item, *keys: index(item, keys), 1, None),
    "slice": Known(lambda item, *places: cut(item, places), 1, None),
    "print": Known(lambda *values: printing.sprint(values), 0, None),
    "println": Known(lambda *values: printing.sprintln(values), 0, None),
    "printf": Known(_printf, 1, None),
    "html": Known(lambda *values: printing.html(values), 0, None),
    "json": Known(printing.to_json, 1, 1),
    "currentDate": Known(_date(0), 0, None),
    "yesterdayDate": Known(_date(-1), 0, None),
    "toTypeScriptType": Known(_typescript, 1, 1),
}
"""By name. Go's `call`, `js` and `urlquery` are left out: no chat template needs them."""
