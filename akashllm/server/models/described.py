"""What a model of the store is and can do, told from its files without loading it."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import msgspec

from akashllm.errors import BadModelFile
from akashllm.gguf import Header, read_header
from akashllm.server.domain import Capability, ModelInfo
from akashllm.server.models.details import capabilities_with, describe, parameter_size
from akashllm.server.models.stored import StoredModel

logger = logging.getLogger(__name__)

_ORDER: tuple[Capability, ...] = ("completion", "tools", "insert", "vision", "embedding", "thinking")


def described(model: StoredModel) -> ModelInfo:
    """The model's info from its GGUF header, its template and its projectors; blocks while it reads.

    A file whose header cannot be read is described by what its configuration says.
    """
    name = str(model.name)
    try:
        state = model.weights.stat()
        info = _describe(model.weights, state.st_mtime_ns, state.st_size)
    except (BadModelFile, OSError) as error:
        logger.debug("the header of %s cannot be read: %s", name, error)
        info = ModelInfo(name=name, size=model.size)
    template = model.go_template
    found = set(info.capabilities if template is None else capabilities_with(info.capabilities, template))
    if model.projectors:
        found.add("vision")
    return msgspec.structs.replace(
        info,
        name=name,
        family=info.family or _word(model, "model_family"),
        quantization=info.quantization or _word(model, "file_type"),
        size=model.size,
        capabilities=tuple(able for able in _ORDER if able in found),
        chat_template=info.chat_template if template is None else template,
    )


def size_label(model: StoredModel, info: ModelInfo) -> str:
    """`8.0B`: counted from the header, else as the configuration says."""
    return parameter_size(info.parameters) or _word(model, "model_type")


def header_of(path: Path) -> Header | None:
    """A GGUF file's header, or None if it has no readable one."""
    try:
        return read_header(path)
    except (BadModelFile, OSError):
        return None


@functools.lru_cache(maxsize=1024)
def _describe(path: Path, _modified: int, _size: int) -> ModelInfo:
    return describe(path, "")


def _word(model: StoredModel, key: str) -> str:
    value = model.config.get(key)
    return value[:100] if isinstance(value, str) else ""
