"""What `/api/tags` and `/api/ps` say of models."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from akashllm.server.domain import ModelInfo
from akashllm.server.models.described import size_label
from akashllm.server.models.details import parameter_size
from akashllm.server.models.stored import StoredModel
from akashllm.server.wire.ollama.responses import timestamp


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in a few words. `families` may be null."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that can be asked for."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: list[str] = []


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory. Sizes are bytes."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


def details(info: ModelInfo, *, lengths: bool = False) -> Details:
    """The short description; `lengths` adds context and embedding length, as listings do."""
    return Details(
        parent_model="",
        format=info.format,
        family=info.family,
        families=[info.family] if info.family else None,
        parameter_size=parameter_size(info.parameters),
        quantization_level=info.quantization or "unknown",
        context_length=info.train_context if lengths else 0,
        embedding_length=info.embedding_length if lengths else 0,
    )


def stored_details(model: StoredModel, info: ModelInfo, *, lengths: bool = False) -> Details:
    """The same, of a model whose configuration may know more of it than its file."""
    found = details(info, lengths=lengths)
    families = model.config.get("model_families")
    known = [item for item in families if isinstance(item, str)] if isinstance(families, list) else []
    return msgspec.structs.replace(
        found, parameter_size=size_label(model, info), families=known or found.families
    )


def tags(
    names: tuple[str, ...],
    info: ModelInfo,
    *,
    size: int,
    digest: str,
    modified_at: str,
    others: Iterable[Listed] = (),
) -> bytes:
    """The body of `/api/tags`: every name the model is served under, and `others`; the newest first.

    Of entries with one name the first is shown.

    `size` is in bytes on disk.
    """
    own = [listed(name, info, size=size, digest=digest, modified_at=modified_at) for name in names]
    shown: dict[str, Listed] = {}
    for one in (*own, *others):
        shown.setdefault(one.name.lower(), one)
    newest = sorted(shown.values(), key=lambda one: one.modified_at.rstrip("Z"), reverse=True)
    return msgspec.json.encode({"models": newest})


def listed(name: str, info: ModelInfo, *, size: int, digest: str, modified_at: str) -> Listed:
    """One entry of `/api/tags`."""
    return Listed(
        name=name,
        model=name,
        modified_at=modified_at,
        size=size,
        digest=digest,
        details=details(info, lengths=True),
        capabilities=list(info.capabilities),
    )


def stored(model: StoredModel, info: ModelInfo) -> Listed:
    """A model of the store, as it is listed."""
    return Listed(
        name=str(model.name),
        model=str(model.name),
        modified_at=timestamp(model.modified),
        size=model.size,
        digest=model.digest,
        details=stored_details(model, info, lengths=True),
        capabilities=list(info.capabilities),
    )


def running(name: str, info: ModelInfo, *, digest: str, expires_at: str) -> Running:
    """The one entry of `/api/ps`."""
    return Running(
        name=name,
        model=name,
        size=info.memory or info.size,
        digest=digest,
        details=details(info),
        expires_at=expires_at,
        size_vram=info.vram,
        context_length=info.context,
    )


def expiry(moment: datetime | None, now: datetime) -> str:
    """When the model goes, as text. Never is Go's longest duration from now: some 292 years."""
    if moment is None:
        return now.replace(year=now.year + 292, day=min(now.day, 28)).isoformat().replace("+00:00", "Z")
    return moment.isoformat().replace("+00:00", "Z")
