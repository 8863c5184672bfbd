"""The routes that change which models there are: pull, push, upload, copy, delete. All need the admin key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import msgspec
from fastapi import APIRouter, Depends
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from akashllm.digests import Sha256
from akashllm.errors import (
    BadName,
    BadRequest,
    Forbidden,
    ModelNotFound,
    TooSlow,
    UnsupportedMedia,
)
from akashllm.names import ModelName
from akashllm.server.api.progress import progress, pulling
from akashllm.server.guard.auth import require_admin
from akashllm.server.guard.body import read_json
from akashllm.server.models.create import create
from akashllm.server.models.push import push
from akashllm.server.models.recipe import Recipe
from akashllm.server.models.registry import Registries
from akashllm.server.models.steps import Step
from akashllm.server.models.store import ModelStore
from akashllm.server.models.upload import receive
from akashllm.server.runtime import Runtime
from akashllm.server.settings import PREFIX, STORE_ENGINE, Settings
from akashllm.server.wire.ollama import management


async def opened(request: Request) -> ModelStore:
    """The store, for who has the admin key. Raises `Forbidden` where there is no store."""
    await require_admin(request)
    store: ModelStore | None = request.app.state.store
    if store is not None:
        return store
    engine = request.app.state.settings.engine
    if engine != STORE_ENGINE:
        raise Forbidden(
            f"the engine {engine} serves what it was started with: only {STORE_ENGINE} has a model store"
        )
    raise Forbidden(f"this service has no model store: set {PREFIX}MODELS to a folder and start it again")


Store = Annotated[ModelStore, Depends(opened)]

router = APIRouter(tags=["management"])
openai = APIRouter(tags=["openai"])
"""Mounted where OpenAI's routes are."""


@router.post("/api/pull", summary="Bring a model into the store")
async def pull_model(request: Request, store: Store) -> Response:
    """Lines of progress, or with `stream: false` one object at the end."""
    asked = management.transfer(await read_json(request, "ollama"), "PullRequest")
    if not asked.model:
        raise BadRequest("invalid model name", param="model")
    name = _parsed(asked.model)
    steps = pulling(request, store, name, insecure=asked.insecure)
    running = await _runs_from(request, store, name)
    if running is not None:
        steps = _keeping(store, running, steps)
    return await progress(request, steps, stream=asked.stream)


@router.post("/api/push", summary="Send a model to a registry")
async def push_model(request: Request, store: Store) -> Response:
    """Lines of progress, or with `stream: false` one object at the end."""
    asked = management.transfer(await read_json(request, "ollama"), "PushRequest")
    if not asked.model:
        raise BadRequest("model is required", param="model")
    registries = cast("Registries", request.app.state.registries)
    steps = push(store, registries, _parsed(asked.model), insecure=asked.insecure)
    return await progress(request, steps, stream=asked.stream)


@router.post("/api/copy", summary="Give a model a second name")
async def copy_model(request: Request, store: Store) -> Response:
    """An empty answer, once it is done."""
    asked = management.copy(await read_json(request, "ollama"))
    await refuse_served(request, asked.destination)
    try:
        await asyncio.to_thread(store.copy, asked.source, asked.destination)
    except ModelNotFound as error:
        file = await served_file(request, asked.source)
        if file is None:
            raise ModelNotFound(f'model "{asked.asked}" not found', param="source") from error
        recipe = Recipe(name=asked.destination, files={file.name: file})
        async with aclosing(making(request, store, recipe)) as steps:
            async for _ in steps:
                pass
    return Response()


@router.delete("/api/delete", summary="Delete a model")
async def delete_model(request: Request, store: Store) -> Response:
    """An empty answer, once it is done. The name stands in the body."""
    asked = management.delete(await read_json(request, "ollama"))
    await _delete(request, store, asked.name, asked.asked)
    return Response()


@router.head("/api/blobs/{digest}", summary="Whether a file is in the store")
async def has_blob(digest: str, store: Store) -> Response:
    """200 or 404."""
    wanted = _digest(digest)
    if await asyncio.to_thread(store.promised, wanted) is None:
        raise ModelNotFound(f'blob "{wanted}" not found', param="digest")
    return Response()


@router.post("/api/blobs/{digest}", summary="Put a file into the store")
async def create_blob(request: Request, digest: str, store: Store) -> Response:
    """201 once it is there and is what its digest says, 200 if it was there before."""
    settings: Settings = request.app.state.settings
    wanted = _digest(digest)
    length = request.headers.get("content-length", "")
    declared = int(length[:19]) if length.isascii() and length.isdigit() else None
    if await asyncio.to_thread(store.promised, wanted, declared) is not None:
        return Response()
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMedia("the body is compressed; send it as it is, without Content-Encoding")
    await receive(
        store,
        wanted,
        _chunks(request, settings.body_timeout),
        declared=declared,
        most=settings.max_blob_bytes,
    )
    await asyncio.to_thread(store.promised, wanted)
    return Response(status_code=201)


@openai.delete("/models/{name:path}", summary="Delete a model")
async def delete_openai(request: Request, name: str, store: Store) -> Response:
    """OpenAI's confirmation."""
    try:
        parsed = ModelName.parse(name)
    except BadName as error:
        raise ModelNotFound(f"model '{name[:100]}' not found", param="model", hint=error.hint) from error
    await _delete(request, store, parsed, name)
    answer = {"id": name, "object": "model", "deleted": True}
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _own(runtime: Runtime) -> set[str]:
    """The names of what the service was started with: they go before the store's."""
    configured = {offer.name for offer in await runtime.offers() if not offer.digest}
    return {name.lower() for name in {*runtime.serves(), *configured}}


async def refuse_served(request: Request, name: ModelName) -> None:
    """Raises `BadRequest` for a name of the service's own: what the store has under it nobody could reach."""
    if name.canonical in await _own(request.app.state.runtime):
        raise BadRequest(
            f"model '{name}' is what this service was started with: choose another name", param="model"
        )


async def served_file(request: Request, name: ModelName) -> Path | None:
    """The GGUF file of a model that is served and not in the store; None if there is none."""
    runtime: Runtime = request.app.state.runtime
    if name.canonical not in await _own(runtime):
        return None
    return (await runtime.find(str(name))).resident.file


def making(request: Request, store: ModelStore, recipe: Recipe) -> AsyncGenerator[Step]:
    """`create` for this service: a base that is not there is pulled, and one that is served will do."""
    return create(
        store, recipe, fetch=partial(pulling, request, store), elsewhere=partial(served_file, request)
    )


async def _runs_from(request: Request, store: ModelStore, name: ModelName) -> Sha256 | None:
    """The file of the store that the service's own model of that name runs from; None if it is elsewhere."""
    file = await served_file(request, name)
    if file is None or file.parent != store.layout.blobs:
        return None
    try:
        return Sha256.parse(file.name)
    except BadName:
        return None


async def _keeping(store: ModelStore, digest: Sha256, steps: AsyncGenerator[Step]) -> AsyncGenerator[Step]:
    """The steps of a pull that may replace what runs: its file stays, for it may have to be loaded again."""
    with store.keeping([digest]):
        async with aclosing(steps):
            async for step in steps:
                yield step


async def _delete(request: Request, store: ModelStore, name: ModelName, asked: str) -> None:
    runtime: Runtime = request.app.state.runtime
    if await _runs_from(request, store, name) is not None:
        raise Forbidden(f"model '{asked}' is what this service was started with: it stays")
    try:
        await asyncio.to_thread(store.delete, name)
    except ModelNotFound as error:
        if name.canonical in await _own(runtime):
            raise Forbidden(
                f"model '{asked}' is what this service was started with, not one of its store: it stays"
            ) from error
        raise ModelNotFound(f"model '{asked}' not found", param="model") from error
    # Whoever asks for the name next would find it gone and have its memory given back; this asks at once.
    with contextlib.suppress(ModelNotFound):
        await runtime.find(str(name))


async def _chunks(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The body as it comes; `patience` is in seconds, for each piece of it."""
    while True:
        try:
            async with asyncio.timeout(patience):
                message = await request.receive()
        except TimeoutError:
            raise TooSlow(f"nothing of the body arrived for {patience:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body", False):
            return


def _parsed(name: str) -> ModelName:
    try:
        return ModelName.parse(name)
    except BadName as error:
        raise BadRequest(error.message, hint=error.hint, param="model") from error


def _digest(text: str) -> Sha256:
    try:
        return Sha256.parse(text)
    except BadName as error:
        raise BadRequest(error.message, hint=error.hint, param="digest") from error
