"""Pushing a model: the files its registry lacks, then the manifest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import httpx

from akashllm.errors import ModelNotFound, RegistryFailed, StoreFailed
from akashllm.names import ModelName
from akashllm.server.models.manifest import MANIFEST, Layer
from akashllm.server.models.registry import Broken, Registries, Registry
from akashllm.server.models.steps import Step, Tell, watched
from akashllm.server.models.store import ModelStore

PART = 64 << 20
"""Bytes of one request: proxies before registries limit them."""

_CHUNK = 1 << 20
_ATTEMPTS = 4
_COMMIT = 900.0
"""Seconds a registry may take to read again what it has received."""

_sleep = asyncio.sleep

logger = logging.getLogger(__name__)


async def push(
    store: ModelStore, registries: Registries, name: ModelName, *, insecure: bool = False
) -> AsyncGenerator[Step]:
    """Send a model of the store to the registry of its name, and say how far it is.

    The manifest goes last, so that the registry never has a model without its files. Raises `ModelNotFound`,
    `RegistryFailed` and `StoreFailed`.
    """
    yield Step("retrieving manifest")
    try:
        manifest, data = await asyncio.to_thread(store.manifest, name)
    except ModelNotFound:
        yield Step("couldn't retrieve manifest")
        raise
    async with registries.open(name, insecure=insecure) as registry:
        with store.keeping(layer.sha256 for layer in manifest.files):
            for layer in manifest.files:
                step = Step(f"pushing {layer.sha256.hex[:12]}", layer.digest, layer.size)
                path = await asyncio.to_thread(store.blob, layer.sha256, layer.size)
                if path is None:
                    raise StoreFailed(f"the model '{name}' is damaged: its file {layer.digest[:19]} is missing")
                if await _has(registry, layer):
                    yield Step(step.status, step.digest, step.total, step.total)
                    continue
                async with aclosing(watched(step, _sending(registry, layer, path))) as steps:
                    async for now in steps:
                        yield now
            yield Step("pushing manifest")
            async with registry.ask(
                "PUT", registry.url(f"manifests/{name.tag}"), {"content-type": MANIFEST}, content=data
            ) as response:
                if not response.is_success:
                    raise RegistryFailed(f"push model manifest: {await registry.refusal(response)}")
    logger.info("pushed the model %s", name)
    yield Step("success")


async def _has(registry: Registry, layer: Layer) -> bool:
    async with registry.ask("HEAD", registry.blob(layer.sha256)) as response:
        if response.status_code == 404:
            return False
        if response.status_code == 200:
            return True
        raise RegistryFailed(await registry.refusal(response))


def _sending(registry: Registry, layer: Layer, path: Path) -> Callable[[Tell], Awaitable[None]]:
    """The upload of one file, as work to be watched.

    After a broken connection it starts anew: Docker's registry forgets an upload whose part was cut.
    """

    async def work(tell: Tell) -> None:
        for attempt in range(1, _ATTEMPTS):
            try:
                await _upload(registry, layer, path, tell)
            except Broken as error:
                logger.warning("sending to %s again: %s", registry.host, error.message)
                await _sleep(0.5 * 2**attempt)
            else:
                return
        await _upload(registry, layer, path, tell)

    return work


async def _upload(registry: Registry, layer: Layer, path: Path, tell: Tell) -> None:
    start = registry.url("blobs/uploads/")
    async with registry.ask("POST", start, {"content-length": "0"}) as response:
        place = await _next(registry, response, httpx.URL(start))
    for at in range(0, layer.size, PART):
        place = await _patch(registry, place, path, at, min(at + PART, layer.size), tell)
    async with registry.ask(
        "PUT",
        str(place.copy_merge_params({"digest": layer.digest})),
        {"content-length": "0"},
        timeout=httpx.Timeout(_COMMIT, connect=10),
    ) as response:
        if response.status_code != 201:
            raise await _refused(registry, response)


async def _patch(
    registry: Registry, place: httpx.URL, path: Path, start: int, end: int, tell: Tell
) -> httpx.URL:
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(end - start),
        "content-range": f"{start}-{end - 1}",
    }
    async with registry.ask("PATCH", str(place), headers, content=_read(path, start, end, tell)) as response:
        return await _next(registry, response, place)


async def _next(registry: Registry, response: httpx.Response, asked: httpx.URL) -> httpx.URL:
    """Where the upload goes on."""
    if response.status_code != 202:
        raise await _refused(registry, response)
    return registry.within(response, asked, "PATCH")


async def _refused(registry: Registry, response: httpx.Response) -> RegistryFailed:
    kind = Broken if response.status_code >= 500 else RegistryFailed
    return kind(await registry.refusal(response))


async def _read(path: Path, start: int, end: int, tell: Tell) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(start)
        at = start
        while at < end:
            chunk = await asyncio.to_thread(file.read, min(_CHUNK, end - at))
            if not chunk:
                raise StoreFailed(f"the file {path.name[:19]} of the store was cut")
            yield chunk
            at += len(chunk)
            tell(at)
