"""Making a model of the store: from another one, or from files that were uploaded.

The layers and the configuration are Ollama's (`server/create.go`, `types/model/config.go`), so that Ollama can
serve what was made here. The model has its name only when all of it is there.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any, Final

import msgspec

from akashllm.digests import Sha256
from akashllm.errors import BadRequest, ModelNotFound
from akashllm.gguf import Header, read_header
from akashllm.names import ModelName
from akashllm.server.chat.go.chat import check as check_template
from akashllm.server.models import manifest as kinds
from akashllm.server.models import quantize
from akashllm.server.models.details import parameter_size, quantization_level
from akashllm.server.models.ingredients import gather, taken
from akashllm.server.models.manifest import MAX_TEXT, Layer, Manifest, text_object
from akashllm.server.models.reading import read_file
from akashllm.server.models.recipe import Recipe
from akashllm.server.models.steps import Step
from akashllm.server.models.store import ModelStore

Fetch = Callable[[ModelName], AsyncGenerator[Step]]
"""Brings a model that is not there into the store."""
Elsewhere = Callable[[ModelName], Awaitable[Path | None]]
"""The GGUF file of a model that is served and not in the store."""

_TEXTS: Final = {"model_family", "base_name", "quantization_level", "parameter_size"}
_KEYS: Final = {"quantization_level": "file_type", "parameter_size": "model_type"}
_NUMBERS: Final = {"context_length", "embedding_length"}


async def create(
    store: ModelStore, recipe: Recipe, *, fetch: Fetch, elsewhere: Elsewhere
) -> AsyncGenerator[Step]:
    """Make the model, and say how far it is; the last step is `success`.

    Raises `BadRequest` for what cannot be made, in Ollama's words where it has some, and `StoreFailed`.
    """
    quantized = quantize.checked(recipe.quantize) if recipe.quantize else ""
    if recipe.template is not None:
        check_template(recipe.template)
    config = _config_of(recipe.info)
    if recipe.base is None and not recipe.files:
        raise BadRequest("no files provided to convert", param="files")
    if len(recipe.adapters) > 1:
        raise BadRequest("only one adapter is currently supported", param="adapters")
    async with aclosing(_Making(store, recipe).steps(config, quantized, fetch, elsewhere)) as steps:
        async for step in steps:
            yield step
    yield Step("success")


class _Making:
    """One model on its way."""

    def __init__(self, store: ModelStore, recipe: Recipe) -> None:
        self._store = store
        self._recipe = recipe
        self._layers: list[Layer] = []
        self._config: dict[str, Any] = {}
        self._known: set[str] = set()
        """Digests of layers that were in the store before."""
        self._kept = ExitStack()

    async def steps(
        self, config: Mapping[str, Any], quantized: str, fetch: Fetch, elsewhere: Elsewhere
    ) -> AsyncGenerator[Step]:
        """Everything in its order."""
        recipe = self._recipe
        with self._kept:
            if recipe.base is not None:
                async with aclosing(self._inherit(recipe.base, fetch, elsewhere)) as steps:
                    async for step in steps:
                        yield step
            async with aclosing(self._gather()) as steps:
                async for step in steps:
                    yield step
            if quantized:
                async with aclosing(self._quantize(quantized)) as steps:
                    async for step in steps:
                        yield step
            for step in await asyncio.to_thread(self._describe):
                yield step
            self._config |= config
            for step in await asyncio.to_thread(self._write):
                yield step

    # --- weights -------------------------------------------------------------------------------------------

    async def _inherit(self, base: ModelName, fetch: Fetch, elsewhere: Elsewhere) -> AsyncGenerator[Step]:
        """The layers and the configuration of the base, fetched if it is not here."""
        if self._recipe.old:
            yield Step("reading model metadata")
        try:
            await asyncio.to_thread(self._take, base)
        except ModelNotFound:
            file = await elsewhere(base)
            if file is not None:
                yield Step("parsing GGUF")
                digest = await asyncio.to_thread(taken, self._store, file)
                await asyncio.to_thread(self._add, file.name, digest, (kinds.MODEL,))
                return
        else:
            return
        async with aclosing(fetch(base)) as steps:
            async for step in steps:
                if step.status != "success":
                    yield step
        await asyncio.to_thread(self._take, base)

    def _take(self, base: ModelName) -> None:
        manifest, _ = self._store.manifest(base)
        self._kept.enter_context(self._store.keeping(layer.sha256 for layer in manifest.files))
        config = self._store.blob(manifest.config.sha256, manifest.config.size)
        if config is None:
            raise BadRequest(f"the model '{base}' is damaged: its configuration is missing; pull it again")
        with self._store.volume.explained():
            self._config = text_object(read_file(config, MAX_TEXT))
        self._layers = list(manifest.layers)
        self._known |= {layer.digest for layer in manifest.layers}

    async def _gather(self) -> AsyncGenerator[Step]:
        recipe = self._recipe
        allowed = (kinds.MODEL, kinds.PROJECTOR) if recipe.base is None else (kinds.PROJECTOR,)
        for files, types in ((recipe.files, allowed), (recipe.adapters, (kinds.ADAPTER,))):
            for name, source in sorted(files.items()):
                yield Step("parsing GGUF")
                await asyncio.to_thread(self._add, name, source, types)
        if not any(layer.media_type == kinds.MODEL for layer in self._layers):
            raise BadRequest("there is no model among the files, only adapters or projectors", param="files")

    def _add(self, name: str, source: Sha256 | Path, allowed: Sequence[str]) -> None:
        found = gather(self._store, name, source).layer
        self._kept.enter_context(self._store.keeping([found.sha256]))
        if found.media_type not in allowed:
            what, wanted = (_word(one) for one in (found.media_type, allowed[0]))
            raise BadRequest(f"{name[:100]} is {what}, and {wanted} is expected there", param="files")
        if found.media_type == kinds.MODEL and any(one.media_type == kinds.MODEL for one in self._layers):
            raise BadRequest("the files hold several models: create them one by one", param="files")
        self._layers.append(found)
        self._known.add(found.digest)

    async def _quantize(self, kind: str) -> AsyncGenerator[Step]:
        at = next(place for place, layer in enumerate(self._layers) if layer.media_type == kinds.MODEL)
        header = await asyncio.to_thread(self._header)
        if quantization_level(header) == kind:
            return
        quantize.refuse_quantised(header)
        store = self._store
        await asyncio.to_thread(store.volume.need, header.file_size)
        # Whatever becomes of this process, a file of such a name is removed when the store is tidied up.
        target = store.layout.blobs / f".sha256-{secrets.token_hex(32)}.quantizing"
        try:
            async with aclosing(quantize.quantized(header, target, kind)) as steps:
                async for step in steps:
                    yield step
            yield Step("verifying conversion")
            self._layers[at] = await asyncio.to_thread(self._settle, target)
        finally:
            with store.volume.explained():
                target.unlink(missing_ok=True)
        for stale in ("file_type", "model_type"):
            self._config.pop(stale, None)

    def _settle(self, path: Path) -> Layer:
        """Give a file that lies among the blobs its name, if it is a whole GGUF file."""
        store = self._store
        with store.volume.explained():
            size = read_header(path).file_size
            digest = Sha256.of_file(path)
            self._kept.enter_context(store.keeping([digest]))
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(store.layout.blob(digest))
        store.opened(digest)
        return Layer(media_type=kinds.MODEL, digest=str(digest), size=size)

    def _header(self) -> Header:
        layer = next(layer for layer in self._layers if layer.media_type == kinds.MODEL)
        path = self._store.blob(layer.sha256, layer.size)
        if path is None:
            raise BadRequest("the weights have gone from the store meanwhile; try again")
        return read_header(path)

    # --- words ---------------------------------------------------------------------------------------------

    def _describe(self) -> list[Step]:
        """The layers of text, and a step for each in the older words."""
        recipe, told = self._recipe, []
        texts = (("template", kinds.TEMPLATE, recipe.template), ("system", kinds.SYSTEM, recipe.system))
        for what, kind, text in texts:
            if text is not None:
                gone = {kind, kinds.PROMPT} if kind == kinds.TEMPLATE else {kind}
                self._replace(kind, text.encode("utf-8", "replace"), gone)
                told.append(Step(f"creating {what} layer"))
        for text in recipe.licenses:
            self._replace(kinds.LICENSE, text.encode("utf-8", "replace"), set())
            told.append(Step("creating license layer"))
        if recipe.parameters:
            merged = {**self._inherited_parameters(), **recipe.parameters}
            plain = {key: _plain(merged[key]) for key in sorted(merged)}
            self._replace(kinds.PARAMS, _json(plain), {kinds.PARAMS})
            told.append(Step("creating parameters layer"))
        if recipe.messages is not None:
            said = [{"role": role, "content": content} for role, content in recipe.messages]
            self._replace(kinds.MESSAGES, _json(said), {kinds.MESSAGES})
            told.append(Step("creating messages layer"))
        return told if recipe.old else []

    def _replace(self, kind: str, data: bytes, gone: set[str]) -> None:
        digest = Sha256.of(data)
        if self._store.blob(digest, len(data)) is not None:
            self._known.add(str(digest))
        layer = self._store.put(data, kind)
        self._kept.enter_context(self._store.keeping([digest]))
        self._layers = [one for one in self._layers if one.media_type not in gone and one != layer]
        self._layers.append(layer)

    def _inherited_parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for layer in self._layers:
            path = self._store.blob(layer.sha256, layer.size) if layer.media_type == kinds.PARAMS else None
            if path is not None:
                with self._store.volume.explained():
                    found |= text_object(read_file(path, MAX_TEXT))
        return found

    # --- the manifest --------------------------------------------------------------------------------------

    def _write(self) -> list[Step]:
        recipe = self._recipe
        header = self._header()
        family = header.text("general.architecture")
        config = {
            "model_format": "gguf",
            "model_family": family,
            "model_families": [family],
            "model_type": parameter_size(header.parameters),
            "file_type": quantization_level(header),
            "renderer": recipe.renderer,
            "parser": recipe.parser,
            "requires": recipe.requires,
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self._layers]},
        }
        always = {key: config[key] for key in ("architecture", "os", "rootfs")}
        config |= {key: value for key, value in self._config.items() if value}
        config |= {key: config[key] for key in always} | always
        for key in ("renderer", "parser", "requires"):
            config[key] = getattr(recipe, key) or config[key]
        kept = self._store.put(_json({key: value for key, value in config.items() if value}), kinds.CONFIG)
        self._kept.enter_context(self._store.keeping([kept.sha256]))
        manifest = Manifest(config=kept, layers=self._layers)
        self._store.link(recipe.name, manifest.encode())
        return [*(self._told(layer) for layer in self._layers), Step("writing manifest")]

    def _told(self, layer: Layer) -> Step:
        old = layer.digest in self._known
        if self._recipe.old:
            return Step(
                f"using already created layer {layer.digest}" if old else f"writing layer {layer.digest}"
            )
        return Step(f"{'using existing' if old else 'creating new'} layer {layer.digest}")


def _config_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What `info` says, as the configuration has it. Raises `BadRequest` in Ollama's words."""
    found: dict[str, Any] = {}
    for key, value in info.items():
        if key in _TEXTS:
            if not isinstance(value, str):
                raise BadRequest(f'info field "{key}" must be a string', param="info")
            found[_KEYS.get(key, key)] = value
            if key == "model_family":
                found["model_families"] = [value] if value else []
        elif key in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadRequest(f'info field "{key}" must be a number', param="info")
            if value < 0 or value != int(value) or value >= 1 << 63:
                raise BadRequest(f'info field "{key}" must be a non-negative integer', param="info")
            found[key] = int(value)
        elif key == "capabilities":
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise BadRequest('info field "capabilities" must be an array of strings', param="info")
            found[key] = value
    return found


def _word(media_type: str) -> str:
    return {kinds.MODEL: "a model", kinds.ADAPTER: "an adapter", kinds.PROJECTOR: "a projector"}[media_type]


def _plain(value: Any) -> Any:
    """A number without a fraction is written without a point, as Go writes it."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"
