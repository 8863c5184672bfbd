"""`POST /api/create` as Ollama reads it: today's fields, and those of before 0.5.5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from akashllm.digests import Sha256
from akashllm.errors import BadName, BadRequest
from akashllm.server.wire.ollama.reading import Fields, mismatch

_OBJECT = "map[string]interface {}"
_FILES = "map[string]string"
MAX_FILES = 1024


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`modelfile` and `path` are the older form. None is what the request does not say."""

    model: str
    stream: bool
    modelfile: str
    path: str
    base: str
    files: dict[str, Sha256] | None
    adapters: dict[str, Sha256]
    template: str | None
    system: str | None
    licenses: tuple[str, ...]
    parameters: dict[str, Any]
    messages: tuple[tuple[str, str], ...] | None
    info: dict[str, Any]
    renderer: str
    parser: str
    requires: str
    quantize: str


def create(body: Mapping[str, Any]) -> CreateRequest:
    """Read the body, in the order in which Ollama complains."""
    fields = Fields(body, "CreateRequest")
    files, adapters = _files(fields, "files"), _files(fields, "adapters")
    for key, what in (("draft_files", "draft models"), ("remote_host", "models of other hosts")):
        if fields.get(key):
            raise BadRequest(f"{what} are not supported: leave {key} out", param=key)
    return CreateRequest(
        model=fields.text("model") or fields.text("name"),
        stream=fields.flag("stream", default=True),
        modelfile=fields.text("modelfile"),
        path=fields.text("path"),
        base=fields.text("from"),
        files=files,
        adapters=adapters or {},
        template=fields.text("template") or None,
        system=fields.text("system") or None,
        licenses=_licenses(fields),
        parameters=fields.object("parameters", _OBJECT),
        messages=tuple(_message(one) for one in fields.each("messages", "api.Message")) or None,
        info=fields.object("info", _OBJECT),
        renderer=fields.text("renderer"),
        parser=fields.text("parser"),
        requires=fields.text("requires"),
        quantize=fields.text("quantize") or fields.text("quantization"),
    )


def _files(fields: Fields, key: str) -> dict[str, Sha256] | None:
    if fields.get(key) is None:
        return None
    given = fields.object(key, _FILES)
    if len(given) > MAX_FILES:
        raise BadRequest(f"too many files: {len(given)} exceeds maximum {MAX_FILES}", param=key)
    found = {}
    for path, digest in given.items():
        if not isinstance(digest, str):
            mismatch(digest, fields.at(key), "string")
        parts = path.split("/")
        if not path or re.search(r"[\\:\x00]", path) or any(part in {"", ".", ".."} for part in parts):
            raise BadRequest("file path must be relative", param=key)
        try:
            found[path] = Sha256.parse(digest)
        except BadName as error:
            raise BadRequest(error.message, hint=error.hint, param=key) from error
    return found


def _licenses(fields: Fields) -> tuple[str, ...]:
    value = fields.get("license")
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequest("license must be a string or a list of strings", param="license")
    return tuple(text for text in texts if text)


def _message(fields: Fields) -> tuple[str, str]:
    role = fields.text("role").lower()
    if role not in {"system", "user", "assistant"}:
        raise BadRequest('message role must be one of "system", "user", or "assistant"', param="messages")
    return role, fields.text("content")
