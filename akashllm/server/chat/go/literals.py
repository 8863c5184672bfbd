"""Go's literals: quoted strings, characters, numbers."""

from __future__ import annotations

import re
from typing import Final

_ESCAPE: Final = re.compile(
    r"\\(?:(?P<simple>[abfnrtv\\])|(?P<quote>['\"])|x(?P<x>[0-9a-fA-F]{2})|(?P<octal>[0-7]{3})"
    r"|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<wrong>.?))",
    re.DOTALL,
)
_SIMPLE: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
}
_INT64: Final = range(-(1 << 63), 1 << 63)
_UNDERSCORES: Final = re.compile(r"[+-]?(?:0[xXoObB]_?)?[0-9a-fA-F.eEpP+-]+(?:_[0-9a-fA-F.eEpP+-]+)*")
_HEX_FLOAT: Final = re.compile(r"[+-]?0[xX][0-9a-fA-F]*\.?[0-9a-fA-F]*[pP][+-]?[0-9]+")
_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def unquote(text: str) -> str:
    """The string a literal in double quotes or backquotes means. Raises `ValueError` with Go's words."""
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")
    return _escaped(text[1:-1], '"')


def character(text: str) -> int:
    """The code point of a character constant. Raises `ValueError`."""
    try:
        value = _escaped(text[1:-1], "'")
    except ValueError:
        value = ""
    if len(value) != 1:
        raise ValueError(f"malformed character constant: {text}")
    return ord(value)


def _escaped(text: str, quote: str) -> str:
    """Escapes replaced. Bytes that are written one by one are put together as UTF-8 afterwards."""

    def replace(found: re.Match[str]) -> bytes:
        if found["simple"]:
            return _SIMPLE[found["simple"]].encode()
        if found["quote"]:
            if found["quote"] != quote:
                raise ValueError("invalid syntax")
            return quote.encode()
        if found["x"] or found["octal"]:
            value = int(found["x"], 16) if found["x"] else int(found["octal"], 8)
            if value > 255:
                raise ValueError("invalid syntax")
            return chr(value).encode() if quote == "'" else bytes([value])
        if found["u"] or found["U"]:
            code = int(found["u"] or found["U"], 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise ValueError("invalid syntax")
            return chr(code).encode()
        raise ValueError("invalid syntax")

    parts, at = [], 0
    for found in _ESCAPE.finditer(text):
        parts += [text[at : found.start()].encode("utf-8", "replace"), replace(found)]
        at = found.end()
    parts.append(text[at:].encode("utf-8", "replace"))
    return b"".join(parts).decode("utf-8", "replace")


def number(text: str) -> int | float:
    """An integer or a float, as the way it is written says. Raises `ValueError` with Go's words."""
    plain = text.replace("_", "")
    if text.endswith("i") and not re.match(r"[+-]?0[xX]", text):
        raise ValueError(f"complex numbers such as {text} are not supported")
    if "_" in text and not _UNDERSCORES.fullmatch(text):
        raise ValueError(f"illegal number syntax: {_quoted(text)}")
    whole = _integer(plain)
    if whole is not None:
        if whole not in _INT64:
            raise ValueError(f"integer overflow: {_quoted(text)}")
        return whole
    try:
        if _HEX_FLOAT.fullmatch(plain):
            return float.fromhex(plain)
        if _FLOAT.fullmatch(plain):
            value = float(plain)
            if not re.search("[.eE]", plain):
                raise ValueError(f"integer overflow: {_quoted(text)}")
            if value in {float("inf"), float("-inf")}:
                raise ValueError(f"illegal number syntax: {_quoted(text)}")
            return value
    except OverflowError as error:
        raise ValueError(f"illegal number syntax: {_quoted(text)}") from error
    raise ValueError(f"illegal number syntax: {_quoted(text)}")


def _integer(plain: str) -> int | None:
    digits = plain.lstrip("+-") if plain[:1] in {"+", "-"} else plain
    sign = -1 if plain.startswith("-") else 1
    for prefix, base in (("0x", 16), ("0o", 8), ("0b", 2)):
        if digits.lower().startswith(prefix):
            found = re.fullmatch({16: "[0-9a-f]+", 8: "[0-7]+", 2: "[01]+"}[base], digits[2:].lower())
            return sign * int(digits[2:], base) if found else None
    if re.fullmatch("0[0-7]+", digits):
        return sign * int(digits, 8)
    return sign * int(digits) if re.fullmatch("0|[1-9][0-9]*", digits) else None


def _quoted(text: str) -> str:
    return f'"{text}"'
