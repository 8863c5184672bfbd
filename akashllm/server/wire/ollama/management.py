"""Managing models as Ollama does: what its requests say, and the lines of progress that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from akashllm.errors import BadName, BadRequest
from akashllm.names import ModelName
from akashllm.server.wire.ollama.reading import Fields


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/pull` and `/api/push`. User name and password, which old clients send, are ignored."""

    model: str
    insecure: bool
    stream: bool


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/copy`. `asked` is the source's name as it was sent."""

    source: ModelName
    destination: ModelName
    asked: str


class DeleteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`DELETE /api/delete`. `asked` is the name as it was sent."""

    name: ModelName
    asked: str


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


def transfer(body: Mapping[str, Any], kind: str) -> TransferRequest:
    """Read the body of a pull or a push; `kind` is Go's name of its type."""
    fields = Fields(body, kind)
    return TransferRequest(
        model=fields.text("model") or fields.text("name"),
        insecure=fields.flag("insecure"),
        stream=fields.flag("stream", default=True),
    )


def copy(body: Mapping[str, Any]) -> CopyRequest:
    """Read the body of a copy."""
    fields = Fields(body, "CopyRequest")
    return CopyRequest(
        source=_name(fields.text("source"), "source {} is invalid"),
        destination=_name(fields.text("destination"), "destination {} is invalid"),
        asked=fields.text("source"),
    )


def delete(body: Mapping[str, Any]) -> DeleteRequest:
    """Read the body of a deletion."""
    fields = Fields(body, "DeleteRequest")
    asked = fields.text("model") or fields.text("name")
    if not asked:
        raise BadRequest("model is required", param="model")
    return DeleteRequest(name=_name(asked, "name {} is invalid"), asked=asked)


def progress(status: str, digest: str = "", total: int = 0, completed: int = 0) -> bytes:
    """One line of progress, with its newline. Zeros are left out, as Go leaves them out."""
    line = _Line(status=status, digest=digest, total=total, completed=completed)
    return msgspec.json.encode(line) + b"\n"


def _name(text: str, complaint: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except BadName as error:
        shown = "".join(char for char in text[:100] if char.isprintable() and char not in '"\\')
        raise BadRequest(complaint.format(f'"{shown}"'), hint=error.hint) from error
