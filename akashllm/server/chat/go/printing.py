"""How values are printed: Go's `fmt` and `encoding/json`, for the values there are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from akashllm.server.chat.go.faults import OperandFault
from akashllm.server.chat.go.values import NIL, JsonList, JsonMap, JsonRecord, Record, Words, held, type_name

WIDTH: Final = 10_000
"""The largest width or precision of a format."""
TEXT: Final = 8 * 1024 * 1024
"""Characters of the longest text a function makes."""

_VERB: Final = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+)?(?:\.(?P<precision>\d*))?(?P<verb>.)?", re.DOTALL
)
_JSON_ESCAPES: Final = str.maketrans(
    {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
)


def shown(value: Any, *, nothing: str = "<nil>") -> str:
    """A value as `%v` prints it."""
    if isinstance(value, str):
        return value
    if value is None or value is NIL:
        return nothing
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, JsonList | JsonMap | JsonRecord):
        return to_json(value)
    if isinstance(value, Words):
        return value[0] if len(value) == 1 else f"[{' '.join(value)}]" if value else ""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{shown(value[key])}' for key in sorted(value, key=str.encode))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(shown, value))}]"
    if isinstance(value, Record):
        return f"{{{' '.join(shown(part.value) for part in value.parts)}}}"
    raise OperandFault(f"can't print a {type(value).__name__}")


def number(value: float) -> str:
    """A float64 as `%v` prints it: the fewest digits that mean it, with an exponent from a million on."""
    return _shortest(value, 6)


def _shortest(value: float, large: int) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    sign, digits, exponent = _digits(value)
    if exponent < -4 or exponent >= large:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{sign}{whole}{'.' + digits[exponent + 1 :] if len(digits) > exponent + 1 else ''}"


def _digits(value: float) -> tuple[str, str, int]:
    """Sign, significant digits, and the exponent of the first of them."""
    mantissa, _, exponent = f"{value!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = whole + fraction
    lead = len(digits) - len(digits.lstrip("0"))
    stripped = digits.strip("0") or "0"
    place = 0 if stripped == "0" else len(whole) - 1 - lead + int(exponent or 0)
    return sign, stripped, place


def sprint(values: Sequence[Any]) -> str:
    """`print`: a space between two values if neither is a string."""
    apart = [
        at > 0 and not isinstance(value, str) and not isinstance(values[at - 1], str)
        for at, value in enumerate(values)
    ]
    return _together(
        f" {shown(value)}" if space else shown(value) for value, space in zip(values, apart, strict=True)
    )


def sprintln(values: Sequence[Any]) -> str:
    """`println`: spaces between all, a line break at the end."""
    return _together(f"{' ' if at else ''}{shown(value)}" for at, value in enumerate(values)) + "\n"


def _together(parts: Iterable[str]) -> str:
    """The parts as one text. Raises `OperandFault` as soon as that is too long."""
    out, size = [], 0
    for part in parts:
        size += len(part)
        if size > TEXT:
            raise OperandFault(f"a text of more than {TEXT} characters")
        out.append(part)
    return "".join(out)


def html(values: Sequence[Any]) -> str:
    """`html`: the values as print shows them, safe in HTML."""
    shown_values = [shown(value, nothing="<no value>") if held(value) is None else value for value in values]
    text = sprint(shown_values)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(char, entity)
    return text.replace("\0", "\ufffd")


def sprintf(pattern: str, values: Sequence[Any]) -> str:
    """`printf` with the verbs v s q d t f e g x X c b o U, flags, width and precision.

    Faults of a format show in its output, as in Go. Raises `OperandFault` for `*` and `[n]`.
    """
    left = list(values)[::-1]

    def replaced(found: re.Match[str]) -> str:
        verb = found["verb"]
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if verb in "*[":
            raise OperandFault(f"printf: %{verb} is not supported")
        for size in (found["width"], found["precision"]):
            if size and int(size[:9]) > WIDTH:
                raise OperandFault(f"printf: a width of more than {WIDTH}")
        if not left:
            return f"%!{verb}(MISSING)"
        return _formatted(left.pop(), verb, found)

    def parts() -> Iterator[str]:
        at = 0
        for found in _VERB.finditer(pattern):
            yield pattern[at : found.start()]
            yield replaced(found)
            at = found.end()
        yield pattern[at:]
        if left:
            yield "%!(EXTRA "
            yield from (f"{', ' if place else ''}{_typed(value)}" for place, value in enumerate(left[::-1]))
            yield ")"

    return _together(parts())


def _typed(value: Any) -> str:
    return "<nil>" if held(value) is None else f"{type_name(value)}={shown(value)}"


def _padded(text: str, found: re.Match[str], verb: str) -> str:
    width = int(found["width"] or 0)
    if "-" in found["flags"]:
        return text.ljust(width)
    if "0" in found["flags"] and len(text) < width:
        sign = text[:1] if text[:1] in {"+", "-"} and verb in "dfeEFgGxXob" else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _formatted(value: Any, verb: str, found: re.Match[str]) -> str:
    """One value by one verb; the width is that of each element."""
    value = held(value)
    if value is None:
        return _padded("<nil>", found, verb) if verb == "v" else f"%!{verb}(<nil>)"
    if isinstance(value, JsonList | JsonMap | JsonRecord | Words) and verb in "vsqxX":
        value = shown(value)
    if isinstance(value, list):
        return f"[{' '.join(_inner(item, verb, found) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_formatted(key, verb, found)}:{_inner(value[key], verb, found)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, Record):
        return f"{{{' '.join(_inner(part.value, verb, found) for part in value.parts)}}}"
    text = _leaf(value, verb, found)
    return f"%!{verb}({_typed(value)})" if text is None else _padded(text, found, verb)


def _inner(value: Any, verb: str, found: re.Match[str]) -> str:
    return "<nil>" if held(value) is None else _formatted(value, verb, found)


def _leaf(value: Any, verb: str, found: re.Match[str]) -> str | None:
    """A value without parts, before its width; None if the verb is not for it."""
    flags = found["flags"]
    precision = None if found["precision"] is None else int(found["precision"] or 0)
    if isinstance(value, str) and precision is not None and verb in "svqxX":
        value = value[:precision]
    if verb != "v":
        rule = next((rule for kinds, verbs, rule in _RULES if verb in verbs and type(value) in kinds), None)
        return None if rule is None else rule(value, verb, flags, precision)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if "#" in flags else value
    if isinstance(value, float):
        return _as_float(value, "g", flags, precision)
    text = shown(value)
    return text if isinstance(value, bool) else _sign(text, flags)


_Rule = Callable[[Any, str, str, int | None], str]


def _sign(text: str, flags: str) -> str:
    if text.startswith(("-", "+")):
        return text
    return f"+{text}" if "+" in flags else f" {text}" if " " in flags else text


def _as_text(value: str, verb: str, flags: str, _precision: int | None) -> str:
    if verb == "s":
        return value
    if verb == "q":
        return f"`{value}`" if "#" in flags and "`" not in value else json.dumps(value, ensure_ascii=False)
    encoded = value.encode("utf-8", "surrogatepass")
    data = encoded.hex(" ") if " " in flags else encoded.hex()
    return data.upper() if verb == "X" else data


def _as_integer(value: int, verb: str, flags: str, _precision: int | None) -> str:
    if verb == "c":
        return chr(value) if 0 <= value <= 0x10FFFF else "\ufffd"
    if verb == "U":
        return f"U+{value:04X}"
    if verb == "q":
        return f"'{chr(value)}'" if 0 <= value <= 0x10FFFF else "'\ufffd'"
    prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
    digits = format(abs(value), "d" if verb == "d" else verb)
    return _sign(f"{'-' if value < 0 else ''}{prefix}{digits}", flags)


def _as_float(value: float, verb: str, flags: str, precision: int | None) -> str:
    if verb in "gG" and precision is None:
        text = _shortest(value, 6)
        return _sign(text.upper() if verb == "G" else text, flags)
    return _sign(format(value, f".{6 if precision is None else precision}{verb}"), flags)


def _as_boolean(value: bool, _verb: str, _flags: str, _precision: int | None) -> str:  # noqa: FBT001 - a rule
    return "true" if value else "false"


_RULES: Final[tuple[tuple[tuple[type, ...], str, _Rule], ...]] = (
    ((str,), "sqxX", _as_text),
    ((int,), "dxXobcUq", _as_integer),
    ((float,), "feEFgG", _as_float),
    ((bool,), "t", _as_boolean),
)


def to_json(value: Any) -> str:
    """A value as Go's `encoding/json` writes it: keys of maps sorted, `<`, `>` and `&` escaped."""
    if isinstance(value, str):
        return _json_text(value)
    if value is None or value is NIL:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _json_number(value)
    if isinstance(value, Words) and len(value) == 1:
        return _json_text(value[0])
    if isinstance(value, dict):
        pairs = (f"{_json_text(key)}:{to_json(value[key])}" for key in sorted(value, key=str.encode))
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(to_json, value))}]"
    if isinstance(value, Record):
        kept = (part for part in value.parts if part.key and not (part.omitted and _empty(part.value)))
        return f"{{{','.join(f'{_json_text(part.key)}:{to_json(part.value)}' for part in kept)}}}"
    raise OperandFault(f"can't write a {type(value).__name__} as JSON")


def _empty(value: Any) -> bool:
    return not isinstance(value, Record) and not held(value)


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_JSON_ESCAPES).translate(_masked.get())


_masked: Final[ContextVar[Mapping[int, str]]] = ContextVar("masked", default=MappingProxyType({}))


@contextmanager
def escaped_in_json(characters: Mapping[int, str]) -> Iterator[None]:
    """Within it, these characters (by code point) are escaped in JSON too: they stand for others."""
    token = _masked.set(characters)
    try:
        yield
    finally:
        _masked.reset(token)


def _json_number(value: float) -> str:
    if abs(value) >= 1e21 or 0 < abs(value) < 1e-6:
        text = _shortest(value, 0)
        # One digit of a negative exponent is enough for JSON.
        return re.sub(r"e-0(\d)$", r"e-\1", text)
    sign, digits, exponent = _digits(value)
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{sign}{whole}{'.' + digits[exponent + 1 :] if len(digits) > exponent + 1 else ''}"
