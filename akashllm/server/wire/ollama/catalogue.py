"""What `/api/tags`, `/api/ps` and `/api/show` say of a model."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from akashllm.gguf import Array, Header
from akashllm.names import ModelName
from akashllm.server.domain import ModelInfo
from akashllm.server.models.details import parameter_size

_LEFT_OUT = ("general.name", "tokenizer.chat_template")


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


class TensorShown(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the model's file, innermost dimension first."""

    name: str
    type: str
    shape: list[int]


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `/api/show`. `details`, `model_info` and `modified_at` are always there."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: Details
    model_info: dict[str, Any]
    tensors: list[TensorShown] = []
    capabilities: list[str] = []
    modified_at: str


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


def show(
    name: ModelName,
    info: ModelInfo,
    *,
    modified_at: str,
    file: Path | None,
    header: Header | None,
    system: str = "",
    options: dict[str, Any] | None = None,
    verbose: bool = False,
) -> bytes:
    """The body of `/api/show`. With `verbose` arrays are read from the file: keep it off the event loop.

    `system` and `options` are those of the request; they show in the Modelfile as they would apply.
    """
    parameters = _parameters(options or {})
    tensors = header.tensors if header is not None else ()
    shown = Shown(
        license=_license(info),
        modelfile=_modelfile(name, file, system, parameters),
        parameters="\n".join(f"{key:<30} {_go(value)}" for key, value in parameters),
        template=info.chat_template,
        system=system,
        details=details(info),
        model_info=model_info(info, header, verbose=verbose),
        tensors=[TensorShown(name=t.name, type=t.type, shape=list(t.shape)) for t in tensors],
        capabilities=list(info.capabilities),
        modified_at=modified_at,
    )
    return msgspec.json.encode(shown)


def model_info(info: ModelInfo, header: Header | None, *, verbose: bool) -> dict[str, Any]:
    """The file's key-value pairs, sorted. Arrays are null unless `verbose`."""
    values: dict[str, Any] = dict(info.metadata)
    if header is not None:
        for key, value in header.metadata.items():
            if not isinstance(value, Array):
                values[key] = value
            else:
                values[key] = _array(header, key) if verbose else None
    if info.family:
        values.setdefault("general.architecture", info.family)
    if info.train_context and info.family:
        values.setdefault(f"{info.family}.context_length", info.train_context)
    values["general.parameter_count"] = info.parameters
    return {key: values[key] for key in sorted(values) if key not in _LEFT_OUT}


def _array(header: Header, key: str) -> msgspec.Raw:
    """An array as JSON text, encoded piece by piece so that it is never a list of Python objects."""
    pieces = [msgspec.json.encode(piece)[1:-1] for piece in header.array(key)]
    return msgspec.Raw(b"[" + b",".join(pieces) + b"]")


def _license(info: ModelInfo) -> str:
    value = info.metadata.get("general.license", "")
    return value if isinstance(value, str) else ""


def _parameters(options: dict[str, Any]) -> list[tuple[str, Any]]:
    flat = []
    for key in sorted(options):
        value = options[key]
        flat += [(key, item) for item in value] if isinstance(value, list) else [(key, value)]
    return flat


def _go(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _modelfile(name: ModelName, file: Path | None, system: str, parameters: list[tuple[str, Any]]) -> str:
    """A Modelfile that would make this model. The file stands by its name: its place is nobody's business."""
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {file.name if file is not None else name}",
    ]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [f"PARAMETER {key} {_quoted(str(value))}" for key, value in parameters]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    if "\n" not in text and text == text.strip():
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'
