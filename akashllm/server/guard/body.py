"""Reading a JSON body from a client that may mean harm: bounded in bytes, time, depth and pieces.

What costs time in a decoder is not bytes but pieces, so depth, keys and values are counted before it runs, by
a handful of passes over the bytes at memory speed. All of it happens in a thread once a body is large.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import accumulate
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from akashllm.errors import BadRequest, ServiceError, TooLarge, TooSlow, UnsupportedMedia
from akashllm.server.guard.dialect import Dialect
from akashllm.server.settings import PREFIX, Settings

_THREAD_FROM = 1 << 18
"""Bytes from which a body is decoded in a thread: below, the thread costs more than it saves."""
_SLOWEST = 16 * 1024
"""Bytes a second that any honest client manages."""

_FRACTIONS = 10_000
"""Numbers with a fraction or an exponent: each may cost ten microseconds, and no honest body has many."""

_STRUCTURE = b'"[]{},:'
_NUMBERS = b".eE"
_REST = bytes(byte for byte in range(256) if byte not in _STRUCTURE + _NUMBERS)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Half a surrogate pair without the other half, as an escape."""
_NEVER = b"\xff\xfe"
"""Two bytes that UTF-8 does not have."""
_MENDED = 4 * 1024 * 1024
"""Bytes of a body up to which half pairs are mended: it holds up other requests meanwhile."""
_AT = re.compile(r"\(byte (\d+)\)$")
_GO_KINDS = {list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_GO_TYPES = {
    "/api/generate": "GenerateRequest",
    "/api/chat": "ChatRequest",
    "/api/embed": "EmbedRequest",
    "/api/embeddings": "EmbeddingRequest",
    "/api/show": "ShowRequest",
    "/api/pull": "PullRequest",
    "/api/push": "PushRequest",
    "/api/create": "CreateRequest",
    "/api/copy": "CopyRequest",
    "/api/delete": "DeleteRequest",
}


async def read_json(request: Request, dialect: Dialect) -> dict[str, Any]:
    """The object in the body, whatever the Content-Type says; `BadRequest`, `TooLarge`, ... otherwise.

    Ollama's dialect follows Go: top-level keys in lower case, only the first JSON value is read, `null` is
    `{}`. OpenAI's wants one whole object.
    """
    settings: Settings = request.app.state.settings
    body = await _read(request, settings)
    if len(body) < _THREAD_FROM:
        value = decode(body, dialect, settings)
    else:
        value = await asyncio.to_thread(decode, body, dialect, settings)
    if dialect == "ollama":
        if value is None:
            return {}
        if isinstance(value, dict):
            return fold(value)
        name = _GO_TYPES.get(request.scope["path"], "Request")
        raise BadRequest(f"json: cannot unmarshal {_GO_KINDS[type(value)]} into Go value of type api.{name}")
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    return value


def fold(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with its keys in lower case, as Go matches the fields of a struct; the last of a kind wins."""
    return {key.lower(): item for key, item in value.items()}


async def _read(request: Request, settings: Settings) -> bytes:
    """The raw body."""
    chunks = [chunk async for chunk in pieces(request, settings, settings.max_body_bytes, "MAX_BODY_BYTES")]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def pieces(request: Request, settings: Settings, cap: int, variable: str) -> AsyncIterator[bytes]:
    """The body as it comes. One over the cap is given up at the first byte too many, or before the first."""
    headers = request.headers
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMedia("the body is compressed; send it as it is, without Content-Encoding")
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:19]) > cap:
        raise _too_large(cap, variable)
    size = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        patience = settings.body_timeout + size / _SLOWEST - (loop.time() - began)
        try:
            async with asyncio.timeout(max(patience, 0)):
                message = await request.receive()
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {settings.body_timeout:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > cap:
            raise _too_large(cap, variable)
        yield chunk
        if not message.get("more_body", False):
            return


def _too_large(cap: int, variable: str) -> ServiceError:
    return TooLarge(f"the body is larger than {cap} bytes, the limit {PREFIX}{variable} sets")


def decode(body: bytes, dialect: Dialect, settings: Settings) -> Any:
    """The JSON value in `body`. Raises `BadRequest` for anything but well-formed JSON of sane proportions."""
    if not body.strip(b" \t\r\n"):
        if dialect == "ollama":
            raise BadRequest("missing request body")
        raise BadRequest("the body is empty: send a JSON object", code="invalid_json")
    survey(body, settings)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        reason = str(error)
    except RecursionError:
        raise _too_deep(settings) from None
    mended, halves = _mend(body)
    if halves:
        return decode(mended, dialect, settings)
    at = _AT.search(reason)
    if at is not None and "trailing characters" in reason and dialect == "ollama":
        return decode(body[: int(at[1]) - 1], dialect, settings)  # the position is one past the byte
    raise _malformed(body, reason, None if at is None else int(at[1]), dialect)


def _mend(body: bytes) -> tuple[bytes, int]:
    """`body` with U+FFFD for each half of a surrogate pair, as Go decodes it, and how many there were.

    JavaScript cuts texts in the middle of an emoji and sends the half. Escaped backslashes stand aside
    meanwhile, so that every backslash left begins an escape.
    """
    if len(body) > _MENDED or _NEVER in body:
        return body, 0
    mended, halves = _LONE.subn(rb"\\ufffd", body.replace(b"\\\\", _NEVER))
    return mended.replace(_NEVER, b"\\\\"), halves


def _malformed(body: bytes, reason: str, at: int | None, dialect: Dialect) -> BadRequest:
    truncated = "truncated" in reason
    if dialect == "ollama":
        if truncated:
            return BadRequest("unexpected EOF")
        if at is not None and at < len(body):
            what = reason.removeprefix("JSON is malformed: ")
            return BadRequest(f"invalid character {_shown(body[at])} in the JSON body: {what}")
        return BadRequest(f"invalid JSON: {_unrepresentable(body)}")
    if truncated:
        return BadRequest("the body is not valid JSON: it ends too early", code="invalid_json")
    if at is not None:
        what = reason.removeprefix("JSON is malformed: ")
        return BadRequest(f"the body is not valid JSON: {what}", code="invalid_json")
    return BadRequest(f"the body is not valid JSON: {_unrepresentable(body)}", code="invalid_json")


def _unrepresentable(body: bytes) -> str:
    """What in a body that is JSON by its structure has no meaning."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"it is not in UTF-8 (byte {error.start})"
    return "a number in it is out of range"


def _shown(byte: int) -> str:
    """A byte in quotes, as Go shows it; nothing that could act on a terminal."""
    return f"'{chr(byte)}'" if ord(" ") <= byte <= ord("~") else f"'\\x{byte:02x}'"


def survey(body: bytes, settings: Settings) -> None:
    """Refuse what is too deep or in too many pieces, before anything is built from it.

    Escapes go first, so every quote that is left opens or closes a string; then every byte that is neither
    structure nor part of a fraction; then what stands between quotes. On malformed JSON the counts are only
    approximate, and the decoder refuses it later.
    """
    if (
        body.count(b"[") + body.count(b"{") <= settings.max_depth
        and body.count(b":") <= settings.max_keys
        and body.count(b",") < min(settings.max_values, _FRACTIONS)
    ):
        return
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = body.translate(None, _REST)
    if kept.count(b'"') > 4 * settings.max_keys:
        raise _too_many("strings", 2 * settings.max_keys, "MAX_KEYS")
    outside = b"".join(kept.split(b'"')[::2])
    if outside.count(b":") > settings.max_keys:
        raise _too_many("keys", settings.max_keys, "MAX_KEYS")
    if outside.count(b",") >= settings.max_values:
        raise _too_many("values", settings.max_values, "MAX_VALUES")
    if sum(map(outside.count, (b".", b"e", b"E"))) > _FRACTIONS:
        raise BadRequest(f"the JSON body has more than {_FRACTIONS} fractions", code="json_too_large")
    brackets = outside.translate(None, b",:" + _NUMBERS)
    if len(brackets) > 2 * settings.max_values:
        raise _too_many("values", settings.max_values, "MAX_VALUES")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > settings.max_depth:
        raise _too_deep(settings)


def _too_deep(settings: Settings) -> BadRequest:
    return BadRequest(
        f"the JSON body is nested more than {settings.max_depth} levels deep, the limit {PREFIX}MAX_DEPTH sets",
        code="json_too_deep",
    )


def _too_many(what: str, limit: int, variable: str) -> BadRequest:
    return BadRequest(
        f"the JSON body has more than {limit} {what}, the limit {PREFIX}{variable} sets", code="json_too_large"
    )
