"""A model's manifest: what its layers are, in the JSON that Ollama and registries exchange.

Source of the media types and of what each layer holds: Ollama's `server/images.go` and `server/layer.go`.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from akashllm.digests import Sha256
from akashllm.errors import BadName, StoreFailed

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.ollama.image."
MODEL = _LAYER + "model"
PROJECTOR = _LAYER + "projector"
ADAPTER = _LAYER + "adapter"
TEMPLATE = _LAYER + "template"
PROMPT = _LAYER + "prompt"
"""What the template's layer was called once."""
SYSTEM = _LAYER + "system"
PARAMS = _LAYER + "params"
MESSAGES = _LAYER + "messages"
LICENSE = _LAYER + "license"

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest. Ollama's have one or two KiB; registries refuse what is larger than this."""
MAX_LAYERS = 256
MAX_TEXT = 4 << 20
"""Bytes of a layer that is read into memory: anything but weights."""


class Layer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of a model. `size` is in bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def sha256(self) -> Sha256:
        """The digest, checked when the manifest was read."""
        return Sha256.parse(self.digest)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The list of a model's files. What other tools put into one and we do not know is not kept."""

    schema_version: int = 2
    media_type: str = MANIFEST
    config: Layer
    layers: list[Layer]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The manifest in `data`. Raises `StoreFailed` for one that is damaged, absurd or of another kind."""
        if len(data) > MAX_MANIFEST:
            raise StoreFailed(f"the manifest is larger than {MAX_MANIFEST} bytes")
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StoreFailed(f"the manifest is not one of a model: {error}") from error
        if found.schema_version != 2:
            raise StoreFailed(f"the manifest is of version {found.schema_version}, and this service reads 2")
        if len(found.layers) > MAX_LAYERS:
            raise StoreFailed(f"the manifest has more than {MAX_LAYERS} layers")
        for layer in found.files:
            try:
                digest = Sha256.parse(layer.digest)
            except BadName as error:
                raise StoreFailed("the manifest has a malformed digest") from error
            if str(digest) != layer.digest or not 0 <= layer.size < 1 << 50:
                raise StoreFailed("the manifest has a malformed layer")
            if layer.media_type not in _LARGE and layer.size > MAX_TEXT:
                raise StoreFailed(f"the manifest has a layer of text with {layer.size} bytes")
        return found

    def encode(self) -> bytes:
        """The bytes that become the file."""
        return msgspec.json.encode(self)

    @property
    def files(self) -> tuple[Layer, ...]:
        """Every file, layers first and the configuration last, each once: the order in which Ollama fetches."""
        return tuple({layer.digest: layer for layer in (*self.layers, self.config)}.values())

    @property
    def size(self) -> int:
        """Bytes of the layers and the configuration."""
        return sum(layer.size for layer in self.layers) + self.config.size

    def of(self, *media_types: str) -> list[Layer]:
        """The layers of some kinds, in order."""
        return [layer for layer in self.layers if layer.media_type in media_types]


_LARGE = frozenset({MODEL, PROJECTOR, ADAPTER, _LAYER + "draft", _LAYER + "tensor", _LAYER + "embed"})


def text_object(data: bytes) -> dict[str, Any]:
    """A JSON object in a layer. Raises `StoreFailed`."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreFailed(f"a layer is not the JSON it should be: {error}") from error
