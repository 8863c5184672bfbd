"""Pulling a model: its manifest, the files that are missing, and its name once all are here and verified."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from akashllm.errors import DigestMismatch, DownloadFailed, RegistryFailed
from akashllm.names import ModelName
from akashllm.server.models.download import download
from akashllm.server.models.manifest import Layer
from akashllm.server.models.partial import held
from akashllm.server.models.registry import Registries, Registry
from akashllm.server.models.steps import Step, Tell, watched
from akashllm.server.models.store import ModelStore

logger = logging.getLogger(__name__)

PARTS = 8
"""Requests at once for one file."""


async def pull(
    store: ModelStore, registries: Registries, name: ModelName, *, insecure: bool = False
) -> AsyncGenerator[Step]:
    """Bring a model into the store, and say how far it is.

    Pulls that need the same file share its download. One that is closed leaves what has come for the next; the
    model has its name only at the end. Raises `RegistryFailed`, `DownloadFailed` and `StoreFailed`.
    """
    yield Step("pulling manifest")
    async with registries.open(name, insecure=insecure) as registry:
        manifest, data = await registry.manifest()
        with store.keeping(layer.sha256 for layer in manifest.files):
            missing = await asyncio.to_thread(_missing, store, manifest.files)
            for layer in manifest.files:
                step = Step(f"pulling {layer.sha256.hex[:12]}", layer.digest, layer.size)
                if layer not in missing:
                    yield Step(step.status, step.digest, step.total, step.total)
                    continue
                async with aclosing(watched(step, _fetching(store, registries, registry, layer))) as steps:
                    async for now in steps:
                        yield now
            yield Step("verifying sha256 digest")
            yield Step("writing manifest")
            removed = await asyncio.to_thread(store.link, name, data)
    logger.info("pulled the model %s", name)
    if removed:
        yield Step("removing unused layers")
    yield Step("success")


def _missing(store: ModelStore, layers: tuple[Layer, ...]) -> set[Layer]:
    """The files that are not here, after making sure that there is room for what they still lack."""
    with store.volume.locked():  # what removes files now may have looked before these were kept
        missing = {layer for layer in layers if store.blob(layer.sha256, layer.size) is None}
    if missing:
        store.volume.need(sum(max(0, layer.size - held(store.place(layer.sha256))) for layer in missing))
    return missing


def _fetching(
    store: ModelStore, registries: Registries, registry: Registry, layer: Layer
) -> Callable[[Tell], Awaitable[None]]:
    """The download of one file, as work to be watched."""
    url = registry.blob(layer.sha256)

    async def fetch(tell: Tell) -> None:
        path = await asyncio.to_thread(store.place, layer.sha256)
        async with registries.connections(layer.sha256, url, PARTS) as client:
            await download(
                url,
                path,
                digest=layer.sha256,
                size=layer.size,
                headers=registry.authorization,
                progress=lambda done, _total: tell(done),
                parts=PARTS,
                patience=registries.patience,
                client=client,
            )
        await asyncio.to_thread(store.opened, layer.sha256)

    async def work(tell: Tell) -> None:
        try:
            try:
                await fetch(tell)
            except DownloadFailed as error:
                if error.status != 401:
                    raise
                # A token lasts minutes and a download may take hours: asking for the file brings a new one.
                async with registry.ask("HEAD", url):
                    pass
                await fetch(tell)
        except DigestMismatch as error:
            raise RegistryFailed(f"{error.message}: the file must be downloaded again") from error

    return work
