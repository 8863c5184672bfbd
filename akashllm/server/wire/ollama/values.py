"""The values with a grammar of their own: durations, thinking, formats, images."""

from __future__ import annotations

import binascii
import json
import re

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import Constraint, Image
from akashllm.server.wire.images import media_type
from akashllm.server.wire.ollama.reading import Fields, mismatch

FOREVER = -1.0
"""A keep-alive that never ends, in seconds."""

UNKNOWN = "application/octet-stream"
"""The media type of what is no image that is read here."""

THINK_LEVELS = ("high", "medium", "low", "max")

_LONGEST = float(2**63 - 1) / 1e9
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION_TERM = re.compile(r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>[^0-9.]*)", re.ASCII)
_GO_TYPES = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}
_SHOWN = 64

_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


def quoted(text: str) -> str:
    """`text` in double quotes, cut where it is too long to repeat to a client."""
    return json.dumps(text[:_SHOWN], ensure_ascii=False)


def duration(text: str) -> float:
    """Seconds of a Go duration: `300ms`, `1.5h`, `2h45m`, `-1m`, `0` (Go's `time.ParseDuration`)."""
    rest = text.lstrip("+-") if text[:1] in {"+", "-"} and text[1:2] not in {"+", "-"} else text
    if rest == "0":
        return 0.0
    seconds, at = 0.0, 0
    while at < len(rest):
        term = _DURATION_TERM.match(rest, at)
        if term is None:
            break
        if not term["unit"]:
            raise BadRequest(f"time: missing unit in duration {quoted(text)}", param="keep_alive")
        if term["unit"] not in _UNITS:
            unit = quoted(term["unit"])
            raise BadRequest(f"time: unknown unit {unit} in duration {quoted(text)}", param="keep_alive")
        seconds += float(term["number"]) * _UNITS[term["unit"]]
        at = term.end()
    if not rest or at < len(rest) or seconds > _LONGEST:
        raise BadRequest(f"time: invalid duration {quoted(text)}", param="keep_alive")
    return -seconds if text.startswith("-") else seconds


def keep_alive(value: object) -> float | None:
    """Seconds the model stays loaded after the last request: None unset, `FOREVER` for any negative."""
    if value is None:
        return None
    if isinstance(value, str):
        seconds = duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, 1 << 63))
    else:
        raise BadRequest(f"Unsupported type: '{_GO_TYPES.get(type(value), 'nil')}'", param="keep_alive")
    return FOREVER if seconds < 0 or seconds > _LONGEST else seconds


def think(value: object) -> bool | str | None:
    """Whether to think, or how hard; None if the request does not say."""
    levels = '"high", "medium", "low", "max", true, or false'
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadRequest(f"think must be a boolean or string ({levels})", param="think")
    if value not in THINK_LEVELS:
        raise BadRequest(f"invalid think value: {quoted(value)} (must be {levels})", param="think")
    return value


def constraint(value: object) -> Constraint | None:
    """The shape `format` asks for: "json", or a JSON Schema object."""
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint(kind="json_object")
    if isinstance(value, dict):
        return Constraint(kind="json_schema", value=msgspec.json.encode(value).decode())
    shown = quoted(msgspec.json.encode(value).decode(errors="replace"))
    raise BadRequest(
        f'invalid format: {shown}; expected "json" or a valid JSON Schema object',
        param="format",
    )


def images(fields: Fields) -> tuple[Image, ...]:
    """The images of a request or a message: standard base64, padded. Raises with Go's text and position."""
    found = []
    for item in fields.items("images", "[]api.ImageData"):
        if not isinstance(item, str):
            mismatch(item, fields.at("images"), "api.ImageData")
        data = _base64(item)
        found.append(Image(media_type=media_type(data) or UNKNOWN, data=data))
    return tuple(found)


def _base64(text: str) -> bytes:
    raw = text.encode(errors="surrogatepass")
    try:
        return _strict(raw.replace(b"\r", b"").replace(b"\n", b""))
    except binascii.Error as error:
        fault = _first_fault(raw)
        raise BadRequest(f"illegal base64 data at input byte {fault}", param="images") from error


def _strict(data: bytes) -> bytes:
    """Decode, refusing what Python lets pass even in its strict mode: padding where none is due."""
    if len(data) % 4 or data.endswith(b"==="):
        raise binascii.Error
    return binascii.a2b_base64(data, strict_mode=True)


def _first_fault(raw: bytes) -> int:
    """The position Go's decoder names: the first byte that cannot stand where it stands."""
    places = [at for at, byte in enumerate(raw) if byte not in b"\r\n"]
    data = bytes(raw[at] for at in places)
    match = _NOT_BASE64.search(data)
    at = match.start() if match else len(data)
    quantum = at % 4
    if at == len(data):
        return places[at - quantum] if quantum else len(raw)
    if data[at] != ord("=") or quantum < 2:
        return places[at]
    padding = 4 - quantum
    for place in range(at, min(at + padding, len(data))):
        if data[place] != ord("="):
            return places[place]
    return places[at + padding] if at + padding < len(data) else len(raw)
