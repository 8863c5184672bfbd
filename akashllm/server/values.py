"""Readers of single settings: text in, a checked value out, `Fault` with the reason otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from akashllm.errors import BadName
from akashllm.names import ModelName, is_host

Parser = Callable[[str], Any]

MIN_KEY = 16
"""Characters in the shortest key that is accepted."""

_PLACEHOLDERS = re.compile(
    r"sk-x+.*|x{3,}|change[-_ ]?me.*|your[-_ ].*|<.*>|\$\{.*\}|\{\{.*\}\}|ac-secret://.*|replace[-_ ].*|"
    r"placeholder.*|example.*|secret|password|todo.*|.*\.\.\.",
    re.IGNORECASE | re.DOTALL,
)
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|\u00b5s|ms|s|m|h)")
_NUMBER = re.compile(r"[+-]?(\d{1,15}\.?\d*|\.\d+)")


class Fault(ValueError):
    """Why a value is not usable; the sentence continues the variable's name and never repeats the value."""


def text() -> Parser:
    """Any text on one line."""

    def parse(value: str) -> str:
        if any(ord(char) < ord(" ") for char in value):
            raise Fault("has a control character in it")
        return value

    return parse


def integer(least: int, most: int) -> Parser:
    """A whole number between two others."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", value):
            raise Fault("must be a whole number")
        number = int(value)
        if not least <= number <= most:
            raise Fault(f"must be from {least} to {most}")
        return number

    return parse


def size() -> Parser:
    """Bytes: a whole number, or a number with a unit of 1,024 (`24GiB`, `24G`, `512 MiB`)."""

    def parse(value: str) -> int:
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", value, re.IGNORECASE)
        if match is None or ("." in match[1] and not match[2]):
            raise Fault("must be a number of bytes, or one with KiB, MiB, GiB or TiB")
        amount = float(match[1]) * 1024.0 ** " kmgt".index(match[2].lower() or " ")
        if amount > 1 << 50:
            raise Fault("must be less than a pebibyte")
        return int(amount)

    return parse


def boolean() -> Parser:
    """Yes or no, in the words people write for them."""

    def parse(value: str) -> bool:
        word = value.lower()
        if word in {"1", "true", "yes", "on"}:
            return True
        if word in {"0", "false", "no", "off"}:
            return False
        raise Fault("must be true or false")

    return parse


def choice(*allowed: str) -> Parser:
    """One of some words."""

    def parse(value: str) -> str:
        word = value.lower()
        if word not in allowed:
            raise Fault(f"must be one of {', '.join(allowed)}")
        return word

    return parse


def seconds(value: str) -> float:
    """Seconds of a number, or of a Go duration: `300`, `1.5`, `5m`, `1h30m`, `-1m`. Raises `Fault`."""
    if _NUMBER.fullmatch(value):
        return float(value)
    sign, rest = (-1.0, value[1:]) if value.startswith("-") else (1.0, value.removeprefix("+"))
    total, position = 0.0, 0
    for term in _TERM.finditer(rest):
        if term.start() != position:
            break
        total += float(term[1]) * _UNITS[term[2]]
        position = term.end()
    if not rest or position != len(rest):
        raise Fault("must be seconds, or a duration such as 90s, 5m or 1h30m")
    return sign * total


def duration(least: float | None) -> Parser:
    """Seconds, at least so many (None: any, a negative one meaning forever), at most ten years."""

    def parse(value: str) -> float:
        amount = seconds(value)
        if least is not None and amount < least:
            raise Fault(f"must be at least {least:g} seconds")
        if amount > 10 * 365 * 86400:
            raise Fault("must be less than ten years")
        return amount

    return parse


def names() -> Parser:
    """Model names between commas, `*` among them or not."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in value.split(",") if part.strip())
        for name in found:
            if name == "*":
                continue
            try:
                ModelName.parse(name)
            except BadName:
                raise Fault("has something in it that is no model name") from None
        return found

    return parse


def folders() -> Parser:
    """Names with a folder each: `name=path`, separated by commas."""

    def parse(value: str) -> tuple[tuple[str, str], ...]:
        found = []
        for item in value.split(","):
            name, equals, path = item.strip().partition("=")
            if not equals or not path.strip():
                raise Fault("must be names with a path each, such as poet=/models/poet")
            try:
                found.append((str(ModelName.parse(name.strip())), path.strip()))
            except BadName as error:
                raise Fault(error.message) from None
        return tuple(found)

    return parse


def mapping() -> Parser:
    """A JSON object, kept as its text."""

    def parse(value: str) -> str:
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, dict):
            raise Fault("must be a JSON object")
        return value

    return parse


def number(least: float, most: float) -> Parser:
    """A number from `least` to `most`."""

    def parse(value: str) -> float:
        if not _NUMBER.fullmatch(value) or not least <= float(value) <= most:
            raise Fault(f"must be a number from {least:g} to {most:g}")
        return float(value)

    return parse


def origins() -> Parser:
    """Web origins between commas: scheme and host, nothing after."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        for origin in found:
            try:
                parts = urlsplit(origin)
            except ValueError:
                raise Fault("has something in it that is no origin") from None
            if (
                parts.scheme not in {"http", "https"}
                or not parts.hostname
                or parts.path
                or parts.query
                or "*" in origin
            ):
                raise Fault("must be origins such as https://chat.example.org, each written out (no *)")
        return found

    return parse


def address() -> Parser:
    """The base of an HTTP service: scheme, host, perhaps port and path. A `/v1` or `/api` at its end is cut."""

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise Fault("must be an address such as http://127.0.0.1:8000") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or "\\" in value:
            raise Fault("must be an address such as http://127.0.0.1:8000")
        if "@" in parts.netloc:
            raise Fault("must not have a user name or password in it: the key has its own variable")
        if parts.query or parts.fragment:
            raise Fault("must end before any ? or #")
        path = parts.path.rstrip("/")
        for suffix in ("/v1", "/api"):
            path = path.removesuffix(suffix)
        return f"{parts.scheme}://{parts.netloc}{path}"

    return parse


def registries() -> Parser:
    """Hosts of registries between commas, each with its port if it has one."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(part.strip().lower() for part in value.split(",") if part.strip())
        if not all(map(is_host, found)):
            raise Fault("must be hosts such as registry.example.org or 127.0.0.1:5000, without http://")
        return found

    return parse


def mirrors() -> Parser:
    """`HOST=ADDRESS` between commas: the registry of that name answers at that address."""
    read = address()

    def parse(value: str) -> tuple[tuple[str, str], ...]:
        found = []
        for part in value.split(","):
            if not part.strip():
                continue
            host, equals, url = part.strip().partition("=")
            if not equals or not is_host(host.strip()):
                raise Fault("must be pairs such as registry.ollama.ai=https://mirror.example.org")
            found.append((host.strip().lower(), read(url.strip())))
        return tuple(found)

    return parse


def pairs(value: str) -> dict[str, str]:
    """`HOST=KEY` between commas, by host in lower case; empty if anything in it is not that."""
    found = {}
    for part in value.split(","):
        host, _, key = (piece.strip() for piece in part.partition("="))
        if not is_host(host) or not key.isascii() or not key.isprintable() or not key:
            return {}
        found[host.lower()] = key
    return found


def secret_fault(key: str) -> str | None:
    """Why `key` protects nothing, or None. The key itself is not in the answer."""
    if not key.isascii() or not key.isprintable() or " " in key:
        return "must be printable ASCII without spaces, because it travels in a header"
    if _PLACEHOLDERS.fullmatch(key):
        return "is a placeholder that was never filled in"
    if len(key) < MIN_KEY:
        return f"must have at least {MIN_KEY} characters"
    if len(set(key)) < 4:
        return "repeats the same few characters"
    return None


def token_fault(token: str) -> str | None:
    """Why a token that another service gave cannot be one, or None."""
    if not token.isascii() or not token.isprintable() or " " in token:
        return "must be printable ASCII without spaces, because it travels in a header"
    return "is a placeholder that was never filled in" if _PLACEHOLDERS.fullmatch(token) else None
