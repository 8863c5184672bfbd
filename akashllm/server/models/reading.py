"""From a manifest and its small layers to a `StoredModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from akashllm.digests import Sha256
from akashllm.errors import StoreFailed
from akashllm.names import ModelName
from akashllm.server.models import manifest as kinds
from akashllm.server.models.layout import Layout
from akashllm.server.models.manifest import Layer, Manifest, text_object
from akashllm.server.models.stored import StoredModel


class _Said(msgspec.Struct):
    role: str
    content: str = ""


def read_file(path: Path, most: int) -> bytes:
    """All of a file, if it has no more than `most` bytes. Raises `StoreFailed`, and `OSError`."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise StoreFailed(f"{path.name} is larger than {most} bytes")
    return data


def read_model(layout: Layout, name: ModelName, data: bytes, modified: int) -> StoredModel:
    """The model whose manifest is `data`. Raises `StoreFailed` if a layer is missing, cut or not what it says.

    Layers of text are verified; of weights only the size is, as they were verified when they came.
    """
    found = Manifest.read(data)
    weights = found.of(kinds.MODEL)
    config = text_object(_content(layout, found.config))
    if not weights:
        kind = str(config.get("model_format") or "unknown")[:40]
        raise StoreFailed(f"it has no GGUF weights (its format is {kind!r}), and others are not run here")
    template = found.of(kinds.TEMPLATE, kinds.PROMPT)
    params: dict[str, Any] = {}
    for layer in found.of(kinds.PARAMS):
        params |= text_object(_content(layout, layer))
    return StoredModel(
        name=name,
        digest=Sha256.of(data).hex,
        size=found.size,
        modified=modified,
        weights=_large(layout, weights[0]),
        projectors=tuple(_large(layout, layer) for layer in found.of(kinds.PROJECTOR)),
        adapters=tuple(_large(layout, layer) for layer in found.of(kinds.ADAPTER)),
        template=_text(layout, template[-1]) if template else None,
        system="".join(_text(layout, layer) for layer in found.of(kinds.SYSTEM)[-1:]),
        parameters=_parameters(params),
        messages=tuple(one for layer in found.of(kinds.MESSAGES)[-1:] for one in _messages(layout, layer)),
        licenses=tuple(_text(layout, layer) for layer in found.of(kinds.LICENSE)),
        config=config,
        layers=tuple((layer.media_type, layer.digest, layer.size) for layer in found.layers),
    )


def _large(layout: Layout, layer: Layer) -> Path:
    path = layout.found(layer.sha256)
    if path is None:
        raise StoreFailed(f"its file {layer.digest[:19]} is missing")
    if path.stat().st_size != layer.size:
        raise StoreFailed(
            f"its file {layer.digest[:19]} has {path.stat().st_size} bytes instead of {layer.size}"
        )
    return path


def _content(layout: Layout, layer: Layer) -> bytes:
    if layer.size > kinds.MAX_TEXT:
        raise StoreFailed(f"its layer {layer.digest[:19]} is too large for text")
    data = read_file(_large(layout, layer), kinds.MAX_TEXT)
    if str(Sha256.of(data)) != layer.digest:
        raise StoreFailed(f"its file {layer.digest[:19]} was changed")
    return data


def _text(layout: Layout, layer: Layer) -> str:
    return _content(layout, layer).decode("utf-8", "replace")


def _parameters(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values as they are, a list as a tuple. What no Modelfile can say is refused."""
    typed: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            typed[key] = tuple(value)
        elif isinstance(value, str | int | float):
            typed[key] = value
        else:
            raise StoreFailed(f"its parameter {key[:40]!r} is neither a number, a word nor a list of words")
    return typed


def _messages(layout: Layout, layer: Layer) -> tuple[tuple[str, str], ...]:
    try:
        said = msgspec.json.decode(_content(layout, layer), type=list[_Said])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreFailed(f"its messages are malformed: {error}") from error
    return tuple((one.role, one.content) for one in said)
