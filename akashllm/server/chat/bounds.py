"""What a template may cost: processor time, the size of a text, the size of a value.

A chat template is a program that came with the weights. The sandbox keeps it from reaching the machine; these
bounds keep it from standing still. Time is charged where a template can repeat itself (each turn of a loop,
each call, each filter), and every operation between two charges is bounded by the sizes below, so a template
stops soon after its time is up. What is left, an operation of the interpreter itself that takes long without
coming back, is for the supervisor of the engine's process, which ends a child that does not answer.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from jinja2.exceptions import TemplateRuntimeError

SECONDS: Final = 4.0
"""Processor time one rendering may take. A long chat takes a hundredth of it."""
TEXT: Final = 8 * 1024 * 1024
"""Characters of any text a template builds, and of what it renders."""
ITEMS: Final = 1_000_000
"""Elements of any value a template builds, shared parts counted each time they would be printed."""
BITS: Final = 4096
"""Size of an integer."""
WIDTH: Final = 10_000
"""Largest number taken as a width, a count or a precision."""

_LONG_NUMBER: Final = re.compile(r"\d{5,}")
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)
_SIZED: Final = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes"})


class OverBudget(TemplateRuntimeError):
    """The template asks for more time or memory than any chat needs."""


class Meter(threading.local):
    """The processor time of the rendering that runs in this thread."""

    deadline = float("inf")

    def start(self, seconds: float) -> None:
        """Give the rendering that begins now so much processor time."""
        self.deadline = time.thread_time() + seconds

    def stop(self) -> None:
        """Charge nothing until the next start."""
        self.deadline = float("inf")

    def charge(self) -> str:
        """Raise `OverBudget` when the time is used up. Empty, so that it can stand in a template."""
        if time.thread_time() > self.deadline:
            raise OverBudget("the template takes too long")
        return ""


def check_text(size: int) -> None:
    """Refuse a text of `size` characters if that is too long."""
    if size > TEXT:
        raise OverBudget(f"the template builds a text of more than {TEXT} characters")


def check_items(size: int) -> None:
    """Refuse a value of `size` elements if those are too many."""
    if size > ITEMS:
        raise OverBudget(f"the template builds a value of more than {ITEMS} elements")


def check_number(value: object) -> None:
    """Refuse a width, count or precision no chat needs."""
    if isinstance(value, int) and abs(value) > WIDTH:
        raise OverBudget(f"the template uses a width or count of more than {WIDTH}")


def weigh(value: object) -> int:
    """How many elements `value` has when printed; what is shared counts every time it is met.

    The walk itself visits each container once, so a value of 2**40 shared leaves is weighed at once.
    """
    return _weigh(value, {}, 0)


def _weigh(value: object, known: dict[int, int], depth: int) -> int:
    if not isinstance(value, _CONTAINERS):
        return 1
    inner: Collection[object] = value.values() if isinstance(value, Mapping) else value
    if id(value) in known:
        return known[id(value)]
    if depth > 200:
        raise OverBudget("the template nests a value too deeply")
    nested = (_weigh(item, known, depth + 1) - 1 for item in inner if isinstance(item, _CONTAINERS))
    total = 1 + len(inner) + sum(nested)
    known[id(value)] = total
    return total


def bounded_str(value: object) -> str:
    """`str(value)` for a value that is not too large to print."""
    if isinstance(value, str):
        return value
    if isinstance(value, _CONTAINERS):
        check_items(weigh(value))
    return str(value)


def add(left: Any, right: Any) -> Any:
    """`left + right`, if the sum is not too long."""
    if isinstance(left, str) and isinstance(right, str):
        check_text(len(left) + len(right))
    elif isinstance(left, Sequence) and isinstance(right, Sequence):
        check_items(weigh(left) + weigh(right))
    return left + right


def multiply(left: Any, right: Any) -> Any:
    """`left * right`, if the product is not too large."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int) and isinstance(other, str | bytes):
            check_text(one * len(other))
        elif isinstance(one, int) and isinstance(other, Sequence):
            check_items(one * weigh(other))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > BITS:
        raise OverBudget("the template computes a number that is too large")
    return left * right


def power(left: Any, right: Any) -> Any:
    """`left ** right`, if that is not too large."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > BITS:
        raise OverBudget("the template computes a number that is too large")
    return left**right


def check_format(pattern: str, values: Iterable[object]) -> None:
    """Refuse a format (`%` or `{}`) whose widths or result could be too long."""
    if _LONG_NUMBER.search(pattern) or "*" in pattern or re.search(r"\{[^{}]*:[^{}]*\{", pattern):
        raise OverBudget("the template formats with a width no chat needs")
    longest = max((len(bounded_str(value)) for value in values), default=0)
    fields = pattern.count("%") + pattern.count("{")
    check_text(len(pattern) + fields * (longest + WIDTH if fields < 100 else longest))


def remainder(left: Any, right: Any) -> Any:
    """`left % right`: a remainder, or a formatted text that is not too long."""
    if isinstance(left, str):
        values = (
            right if isinstance(right, tuple) else right.values() if isinstance(right, Mapping) else (right,)
        )
        check_format(left, values)
    return left % right


def check_replace(text: str, old: str, new: str) -> None:
    """Refuse a replacement that makes too long a text."""
    check_text(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def check_method(owner: object, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """Refuse a method of a text or list that would build too much; give its arguments back."""
    if isinstance(owner, bytes) and name != "decode":
        raise OverBudget("templates may not compute with bytes")
    if isinstance(owner, list):
        check_items(len(owner))
    if name in _SIZED:
        for value in (*args, *kwargs.values()):
            check_number(value)
    if isinstance(owner, str):
        if name == "translate":
            raise OverBudget("templates may not use str.translate")
        if name == "join" and args:
            items = [bounded_str(item) if isinstance(item, str) else item for item in args[0]]
            check_items(len(items))
            check_text(sum(len(item) + len(owner) for item in items if isinstance(item, str)))
            return (items, *args[1:])
        if name == "replace" and len(args) > 1:
            check_replace(owner, str(args[0]), str(args[1]))
        if name == "expandtabs":
            check_text(len(owner) + owner.count("\t") * WIDTH)
    return args
