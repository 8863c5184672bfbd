"""The GGUF files a model is made of: found, verified, and told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from akashllm.digests import Sha256
from akashllm.errors import BadModelFile, BadRequest
from akashllm.gguf import Header, read_header
from akashllm.server.models import manifest as kinds
from akashllm.server.models.manifest import Layer
from akashllm.server.models.store import ModelStore

NOT_GGUF: Final = "supplied file was not in GGUF format"
_PIECE: Final = 4 << 20
_CONVERT: Final = (
    "weights of other formats are not converted here; make a GGUF file of them with llama.cpp's "
    "convert_hf_to_gguf.py and upload that"
)


class Ingredient(NamedTuple):
    """A file of the store with what it is; `layer` has the media type."""

    layer: Layer
    header: Header


def gather(store: ModelStore, name: str, source: Sha256 | Path) -> Ingredient:
    """A file, verified to the last bit and told apart; one from elsewhere is copied into the store.

    Blocks while it reads all of it. Raises `BadRequest` for what is no usable GGUF file.
    """
    if name.lower().endswith((".safetensors", ".pt", ".pth")):
        raise BadRequest(f"{NOT_GGUF}: {_CONVERT}", param="files")
    digest = source if isinstance(source, Sha256) else taken(store, source)
    path = store.blob(digest)
    if path is None:
        raise BadRequest(f"blob not found for {name[:100]} (digest {digest}): upload it first", param="files")
    header = _header(path)
    with store.volume.explained():
        if Sha256.of_file(path) != digest:
            raise BadRequest(f"the file {digest} was changed since it was uploaded", param="files")
    layer = Layer(media_type=_media_type(header), digest=str(digest), size=header.file_size)
    return Ingredient(layer, header)


def taken(store: ModelStore, path: Path) -> Sha256:
    """The digest under which the file at `path` is in the store now. Blocks; raises `StoreFailed`."""
    with store.volume.explained():
        digest, size = Sha256.of_file(path), path.stat().st_size
        if store.blob(digest, size) is None:
            store.volume.need(size)
            with path.open("rb") as file, store.incoming(digest, size) as target:
                while piece := file.read(_PIECE):
                    target.write(piece)
            store.opened(digest)
    return digest


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except BadModelFile as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start != b"GGUF":
            raise BadRequest(f"{NOT_GGUF}: {_CONVERT}", param="files") from error
        raise BadRequest(error.message, hint=error.hint, param="files") from error


def _media_type(header: Header) -> str:
    """Model, projector or adapter (Ollama's `server/create.go`)."""
    kind, family = header.text("general.type"), header.text("general.architecture")
    if kind == "adapter" or header.text("adapter.type"):
        return kinds.ADAPTER
    blocks = header.integer(f"{family}.block_count")
    sees = header.integer(f"{family}.vision.block_count") or header.integer("vision.block_count")
    if kind in {"projector", "mmproj"} or family == "clip" or (sees and not blocks):
        return kinds.PROJECTOR
    if not family or not header.tensors:
        raise BadRequest("unknown type: the GGUF file says of no architecture what it is", param="files")
    if header.integer("split.count") > 1:
        raise BadRequest(
            "split GGUF files are not supported: join them with llama.cpp's llama-gguf-split --merge",
            param="files",
        )
    return kinds.MODEL
