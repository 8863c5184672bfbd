"""Models outside the catalogue: their figures, read from the beginnings of their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from akashllm.catalog.figures import dtype_of, from_config, from_gguf
from akashllm.catalog.ggufs import most_used, ranged_header
from akashllm.catalog.model import Model, Sources
from akashllm.catalog.reference import Reference
from akashllm.catalog.web import Web
from akashllm.errors import BadModelFile, UnknownModel, UsageError
from akashllm.gguf import read_header
from akashllm.gguf_files import choose_file, is_weights, parts_of, quant_of, same_set
from akashllm.plan import EngineName

HUB = "https://huggingface.co"
REGISTRY = "https://registry.ollama.ai"

MAX_LISTING = 8 << 20
MAX_CONFIG = 1 << 20
MAX_INDEX = 64 << 20
MAX_TENSORS_HEADER = 64 << 20


class Hub:
    """Describes models of the Hugging Face hub, of Ollama's library and of this machine. Use it with `with`.

    token       a Hugging Face token for gated and private repositories; it is sent to the hub only
    """

    def __init__(self, *, token: str | None = None, hub: str = HUB, registry: str = REGISTRY) -> None:
        self._hub = hub.rstrip("/")
        self._registry = registry.rstrip("/")
        self._web = Web(token)
        self._public = Web()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._web.close()
        self._public.close()

    def describe(self, reference: Reference, engine: EngineName) -> Model:
        """The model a reference names, with everything sizing needs.

        Raises `UnknownModel` (no such thing), `HubRefused` (gated), `HubBusy` (429, 5xx), `Unreachable`, and
        `UsageError` for files that do not say what has to be known.
        """
        if reference.where == "file":
            return _of_file(reference.name)
        if reference.where == "ollama":
            return self._of_ollama(reference)
        listing = self._listing(reference.name, reference.revision)
        files = _files(listing)
        if engine == "vllm":
            if reference.file:
                raise UsageError(f"{reference.file} is a GGUF file", hint="use --engine llamacpp")
            return self._of_repository(reference, listing, files)
        return self._of_gguf_repository(reference, listing, files)

    def _listing(self, repository: str, revision: str) -> Mapping[str, Any]:
        what = f"repository {repository}" + (f" at {revision}" if revision else "")
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        listing = self._web.json(f"{self._hub}/api/models/{repository}{at}?blobs=true", MAX_LISTING, what=what)
        if not isinstance(listing, Mapping):
            raise UsageError(f"the hub's answer for {what} is not what it should be")
        return listing

    def _of_repository(
        self, reference: Reference, listing: Mapping[str, Any], files: Mapping[str, int]
    ) -> Model:
        name, revision = reference.name, _revision(listing)
        if not any(file.endswith(".safetensors") for file in files):
            if any(file.endswith(".gguf") for file in files):
                raise UsageError(f"{name} holds GGUF files", hint="use --engine llamacpp or --engine ollama")
            raise UsageError(
                f"{name} has no safetensors files",
                hint="weights in other formats can run code and are not loaded",
            )
        base = f"{self._hub}/{name}/resolve/{revision or 'main'}"
        where = f"config.json of {name}"
        config = self._web.json(f"{base}/config.json", MAX_CONFIG, what=where)
        shape, context = from_config(config, where)
        dtype = dtype_of(config, where)
        size, counted = self._safetensors(base, name, files)
        published = listing.get("safetensors")
        total = published.get("total") if isinstance(published, Mapping) else None
        parameters = total if isinstance(total, int) and 0 < total < 10**14 else counted or shape.parameters()
        return Model(
            alias=name,
            title=name,
            family=str(config.get("model_type", "")),
            shape=shape,
            parameters=parameters,
            context=context,
            task="embedding" if shape.kind == "encoder" else "chat",
            dtype=dtype,
            licence=_licence(listing),
            gated=bool(listing.get("gated")),
            sizes=((dtype, size),),
            sources=Sources(hf=name, hf_revision=revision),
            facts=(("shape", where), ("sizes", "the safetensors files")),
        )

    def _safetensors(self, base: str, name: str, files: Mapping[str, int]) -> tuple[int, int]:
        """(bytes of all tensors, how many numbers they hold or 0 where that would take many reads)."""
        if "model.safetensors.index.json" in files:
            what = f"model.safetensors.index.json of {name}"
            index = self._web.json(f"{base}/model.safetensors.index.json", MAX_INDEX, what=what)
            metadata = index.get("metadata") if isinstance(index, Mapping) else None
            size = metadata.get("total_size") if isinstance(metadata, Mapping) else None
            if isinstance(size, (int, float)) and 0 < size < 10**15:
                return int(size), 0
            parts = _named_parts(index)
            known = sum(files.get(part, 0) for part in parts)
            if known:
                return known, 0
            raise UsageError(f"{what} does not say how large the weights are", hint="give --parameters")
        named = sorted(file for file in files if file.endswith(".safetensors"))
        first = "model.safetensors" if "model.safetensors" in files else named[0]
        return self._safetensors_header(f"{base}/{first}", f"{first} of {name}")

    def _safetensors_header(self, url: str, what: str) -> tuple[int, int]:
        head, total = self._web.part(url, 0, 8, what=what)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= min(MAX_TENSORS_HEADER, total - 8):
            raise BadModelFile(f"{what} has no header that can be read")
        text, _ = self._web.part(url, 8, 8 + length, what=what)
        try:
            tensors = json.loads(text)
        except (ValueError, RecursionError):
            raise BadModelFile(f"the header of {what} is not JSON") from None
        if not isinstance(tensors, dict):
            raise BadModelFile(f"the header of {what} is no JSON object")
        tensors.pop("__metadata__", None)
        return total - 8 - length, sum(_elements(tensor, what) for tensor in tensors.values())

    def _of_gguf_repository(
        self, reference: Reference, listing: Mapping[str, Any], files: Mapping[str, int]
    ) -> Model:
        name, revision = reference.name, _revision(listing)
        weights = {file: size for file, size in files.items() if is_weights(file)}
        if not weights:
            raise UsageError(
                f"{name} has no GGUF files", hint="use --engine vllm, or name a repository of GGUF files"
            )
        file = parts_of(reference.file)[0] or choose_file(sorted(weights), reference.tag, name)
        if file not in weights:
            raise UnknownModel(f"{name} has no file {file}", hint=f"look at {self._hub}/{name}/tree/main")
        parts = [other for other in weights if same_set(file, other)]
        url = f"{self._hub}/{name}/resolve/{revision or 'main'}/{file}"
        with ranged_header(self._web, url, f"{file} of {name}") as header:
            shape, context = from_gguf(header, file)
            parameters, size = header.parameters, sum(tensor.size for tensor in header.tensors)
        if len(parts) > 1:
            size = sum(weights[part] for part in parts)
            parameters = shape.parameters()
        quant = quant_of(file) or "unknown"
        return Model(
            alias=name,
            title=name,
            family=header.text("general.architecture"),
            shape=shape,
            parameters=parameters,
            context=context,
            task="embedding" if shape.kind == "encoder" else "chat",
            licence=_licence(listing),
            gated=bool(listing.get("gated")),
            default_quant=quant,
            sizes=((quant, size),),
            sources=Sources(
                gguf=name, gguf_file=file, gguf_revision=revision, gguf_quants=(quant,), ollama=f"hf.co/{name}"
            ),
            facts=(("shape", f"the header of {file}"), ("sizes", f"the tensors of {file}")),
        )

    def _of_ollama(self, reference: Reference) -> Model:
        path = reference.name if "/" in reference.name else f"library/{reference.name}"
        shown = f"{reference.name}:{reference.tag}"
        manifest = self._public.json(
            f"{self._registry}/v2/{path}/manifests/{reference.tag}",
            MAX_CONFIG,
            what=f"model {shown}",
            accept="application/vnd.docker.distribution.manifest.v2+json",
        )
        digest = _model_layer(manifest, shown)
        url = f"{self._registry}/v2/{path}/blobs/{digest}"
        with ranged_header(self._public, url, f"the file of {shown}") as header:
            shape, context = from_gguf(header, f"the file of {shown}")
            parameters, size = header.parameters, sum(tensor.size for tensor in header.tensors)
        quant = most_used(header)
        return Model(
            alias=shown.removesuffix(":latest"),
            title=shown,
            family=header.text("general.architecture"),
            shape=shape,
            parameters=parameters,
            context=context,
            task="embedding" if shape.kind == "encoder" else "chat",
            default_quant=quant,
            sizes=((quant, size),),
            sources=Sources(ollama=shown.removesuffix(":latest"), ollama_quant=quant),
            facts=(("shape", "the header of the file in Ollama's library"),),
        )


def _of_file(path: str) -> Model:
    try:
        header = read_header(Path(path))
    except OSError as fault:
        raise UsageError(f"{path}: {fault.strerror or 'cannot be read'}", hint="check the path") from None
    shape, context = from_gguf(header, path)
    quant = quant_of(path) or most_used(header)
    return Model(
        alias=path,
        title=header.text("general.name") or Path(path).stem,
        family=header.text("general.architecture"),
        shape=shape,
        parameters=header.parameters,
        context=context,
        task="embedding" if shape.kind == "encoder" else "chat",
        licence=header.text("general.license"),
        default_quant=quant,
        sizes=((quant, sum(tensor.size for tensor in header.tensors)),),
        facts=(("shape", "the header of the file"),),
    )


def _files(listing: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    for row in listing.get("siblings") or ():
        name = row.get("rfilename") if isinstance(row, Mapping) else None
        if isinstance(name, str) and name.isprintable() and ".." not in name and not name.startswith("/"):
            size = row.get("size")
            found[name] = size if isinstance(size, int) and size >= 0 else 0
    return found


def _revision(listing: Mapping[str, Any]) -> str:
    sha = listing.get("sha")
    return sha if isinstance(sha, str) and re.fullmatch(r"[0-9a-f]{40}", sha) else ""


def _licence(listing: Mapping[str, Any]) -> str:
    card = listing.get("cardData")
    licence = card.get("license") if isinstance(card, Mapping) else None
    return licence if isinstance(licence, str) and licence.isprintable() and len(licence) <= 64 else ""


def _named_parts(index: Any) -> set[str]:
    table = index.get("weight_map") if isinstance(index, Mapping) else None
    return (
        {value for value in table.values() if isinstance(value, str)} if isinstance(table, Mapping) else set()
    )


def _elements(tensor: Any, what: str) -> int:
    shape = tensor.get("shape") if isinstance(tensor, Mapping) else None
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise BadModelFile(f"the header of {what} describes a tensor without a shape")
    count = 1
    for extent in shape:
        count *= extent
    return count


def _model_layer(manifest: Any, shown: str) -> str:
    layers = manifest.get("layers") if isinstance(manifest, Mapping) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, Mapping) and layer.get("mediaType") == "application/vnd.ollama.image.model":
            digest = layer.get("digest")
            if isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                return digest
    raise UsageError(f"the manifest of {shown} names no model file")
