"""Ollama's routes: parse, ask the runtime, serialise. What the JSON looks like is in `server/wire/ollama`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from akashllm.errors import ModelNotFound, ServiceError
from akashllm.names import ModelName
from akashllm.server import streaming
from akashllm.server.defaults import said_in
from akashllm.server.domain import Delta, Done, Event, Finish, Generation, ModelInfo
from akashllm.server.guard.body import read_json
from akashllm.server.models.described import described, header_of
from akashllm.server.models.identity import Identity, ModelFile
from akashllm.server.models.registry import CONTRACT
from akashllm.server.models.store import ModelStore
from akashllm.server.models.stored import StoredModel
from akashllm.server.resident import Resident
from akashllm.server.runtime import Runtime
from akashllm.server.served import Served
from akashllm.server.wire.ollama import catalogue, prompts, requests, responses, showing
from akashllm.server.wire.ollama.requests import ChatRequest, EmbedRequest, GenerateRequest, ShowRequest

_NEVER = datetime.max.replace(tzinfo=UTC)

router = APIRouter()

Preparer = Callable[[ModelInfo], Generation]


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def version() -> Response:
    """The level of the interface, not of this service: `/health` says that."""
    return _json(msgspec.json.encode({"version": CONTRACT}))


@router.api_route("/api/status", methods=["GET", "HEAD"])
async def status() -> Response:
    """Newer clients ask whether models may run in Ollama's cloud. Here none does."""
    return _json(msgspec.json.encode({"cloud": {"disabled": True, "source": "config"}}))


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def tags(request: Request) -> Response:
    """The models that can be asked for: the deployed one by all its names, those of store and configuration."""
    runtime = _runtime(request)
    store = _store(request)
    others = await asyncio.to_thread(_listed, store) if store is not None else []
    configured = [await _entry(runtime, offer.name) for offer in await runtime.offers() if not offer.digest]
    identity = await _identity(request)
    info = runtime.engine.info
    return _json(
        catalogue.tags(
            runtime.serves(),
            info,
            size=max(identity.size, info.size),
            digest=identity.digest,
            modified_at=responses.timestamp(identity.modified),
            others=(*configured, *others),
        )
    )


@router.api_route("/api/ps", methods=["GET", "HEAD"])
async def ps(request: Request) -> Response:
    """The models in memory, the one that stays longest first."""
    now = datetime.now(UTC)
    loaded = [resident for resident in _runtime(request).residents() if resident.loaded()]
    loaded.sort(key=lambda resident: resident.expires_at() or _NEVER, reverse=True)
    shown = [
        catalogue.running(
            resident.name,
            resident.info,
            digest=resident.digest or (await _identity(request, resident)).digest,
            expires_at=catalogue.expiry(resident.expires_at(), now),
        )
        for resident in loaded
    ]
    return _json(msgspec.json.encode({"models": shown}))


@router.post("/api/show")
async def show(request: Request) -> Response:
    """All there is to know of the model."""
    asked = requests.show(await read_json(request, "ollama"))
    runtime = _runtime(request)
    name = requests.model_name(asked.model)
    stored = await _stored(request, name)
    if stored is not None:
        info = await asyncio.to_thread(described, stored)
        return _json(await asyncio.to_thread(_show, stored, info, stored.weights, asked))
    served = await _served(runtime, asked.model, f"model '{name}' not found")
    identity = await _identity(request, served.resident)
    file = _file(request, served.resident)
    info = served.resident.info
    license_ = info.metadata.get("general.license")
    # What a Modelfile would say that makes this model. The file stands by its name: its place is nobody's
    # business.
    model = StoredModel(
        name=name,
        digest=identity.digest,
        size=identity.size,
        modified=identity.modified,
        weights=Path(str(name) if file is None else file.name),
        parameters=served.defaults.parameters,
        licenses=(license_,) if isinstance(license_, str) else (),
    )
    if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
        info = msgspec.structs.replace(info, metadata={**info.metadata, "general.basename": name.model})

    return _json(await asyncio.to_thread(_show, model, info, file, asked))


@router.post("/api/generate")
async def generate(request: Request) -> Response:
    """A completion of a prompt; without a prompt, load or unload the model."""
    start = time.perf_counter_ns()
    body = await read_json(request, "ollama")
    asked = requests.generate(body)
    served = await _served(_runtime(request), asked.model, f"model '{asked.model}' not found")
    answer = responses.Answer(asked.model, start, chat=False)
    ident = _ident(request)

    def prepare(info: ModelInfo) -> Generation:
        generation = prompts.generation(asked, info, ident=ident, model=served.name)
        return served.defaults.apply(generation, said_in(body.get("options")), chat=False)

    if not asked.prompt:
        return await _load(request, served.resident, asked, answer, prepare)
    return await _answer(request, served.resident, asked, answer, prepare)


@router.post("/api/chat")
async def chat(request: Request) -> Response:
    """The next message of a conversation; without messages, load or unload the model."""
    start = time.perf_counter_ns()
    body = await read_json(request, "ollama")
    asked = requests.chat(body)
    served = await _served(_runtime(request), asked.model, f"model '{asked.model}' not found")
    answer = responses.Answer(asked.model, start, chat=True)
    ident = _ident(request)

    def prepare(info: ModelInfo) -> Generation:
        generation = prompts.conversation(asked, info, ident=ident, model=served.name)
        return served.defaults.apply(generation, said_in(body.get("options")))

    if not asked.messages:
        return await _load(request, served.resident, asked, answer, prepare)
    return await _answer(request, served.resident, asked, answer, prepare)


@router.post("/api/embed")
async def embed(request: Request) -> Response:
    """Vectors of one or more texts."""
    start = time.perf_counter_ns()
    asked = requests.embed(await read_json(request, "ollama"))

    def encode(found: responses.Found) -> bytes:
        return responses.embed_response(asked.model, found, start)

    return await _embed(request, asked, encode)


@router.post("/api/embeddings")
async def embeddings(request: Request) -> Response:
    """The vector of one text: the older form, with one prompt and one vector."""
    asked = requests.embeddings(await read_json(request, "ollama"))
    return await _embed(request, asked, responses.embedding_response)


async def _answer(
    request: Request,
    resident: Resident,
    asked: GenerateRequest | ChatRequest,
    answer: responses.Answer,
    prepare: Preparer,
) -> Response:
    """Generate, as lines or as one object. The model is waited for inside, so that the line stays warm."""

    async def lines() -> AsyncGenerator[bytes, None]:
        generation = prepare(await _info(resident))
        async with aclosing(_events(resident, generation)) as events:
            async for event in events:
                match event:
                    case Delta():
                        if line := answer.delta(event):
                            yield line
                    case Finish():
                        answer.finish(event)
                    case Done():
                        resident.keep_alive(asked.keep_alive)
                        yield answer.last(event)

    async def one() -> bytes:
        generation = prepare(await _info(resident))
        body = b""
        async with aclosing(_events(resident, generation)) as events:
            async for event in events:
                match event:
                    case Delta():
                        answer.add(event)
                    case Finish():
                        answer.finish(event)
                    case Done():
                        resident.keep_alive(asked.keep_alive)
                        body = answer.whole(event)
        return body

    if asked.stream:
        return streaming.ndjson(request, lines(), error=_error)
    return await streaming.whole(request, one(), error=_error)


async def _load(
    request: Request,
    resident: Resident,
    asked: GenerateRequest | ChatRequest,
    answer: responses.Answer,
    prepare: Preparer,
) -> Response:
    """Load the model, or with a keep-alive of 0 unload it: always one object, even where streams are wanted."""

    async def done() -> bytes:
        if asked.keep_alive == 0:
            await resident.unload()
            return answer.loaded("unload")
        prepare(await _info(resident))
        await resident.ready()
        resident.keep_alive(asked.keep_alive)
        return answer.loaded("load")

    return await streaming.whole(request, done(), error=_error)


async def _embed(request: Request, asked: EmbedRequest, encode: Callable[[responses.Found], bytes]) -> Response:
    missing = f'model "{asked.model}" not found, try pulling it first'
    served = await _served(_runtime(request), asked.model, missing)
    resident = served.resident
    ident = _ident(request)

    async def done() -> bytes:
        found: responses.Found = None
        if asked.inputs:
            found = await resident.embed(prompts.embedding(asked, ident=ident, model=served.name))
        else:
            await resident.ready()
        resident.keep_alive(asked.keep_alive)
        return encode(found)

    return await streaming.whole(request, done(), error=_error)


def _events(resident: Resident, generation: Generation) -> AsyncGenerator[Event, None]:
    """The events as what they are, a generator: closing it is how a client's leaving reaches the engine."""
    return cast("AsyncGenerator[Event, None]", resident.generate(generation))


async def _info(resident: Resident) -> ModelInfo:
    """What the model is and can do: from its file, or else from the engine once it has loaded it."""
    if not resident.info.capabilities:
        await resident.ready()
    return resident.info


async def _served(runtime: Runtime, asked: str, missing: str) -> Served:
    """The model that is meant. Each route says in its own words that there is none."""
    if not asked:
        raise ModelNotFound(missing, param="model")
    name = requests.model_name(asked)
    try:
        return await runtime.find(str(name))
    except ModelNotFound as error:
        hint = error.hint or f"this service serves {', '.join(runtime.serves())}"
        raise ModelNotFound(missing, hint=hint, param="model") from error


def _listed(store: ModelStore) -> list[catalogue.Listed]:
    return [catalogue.stored(model, described(model)) for model in store.list()]


async def _stored(request: Request, name: ModelName) -> StoredModel | None:
    """The model of that name, if it is one of the store's and not the deployed one's name."""
    store = _store(request)
    if store is None or name.canonical in {served.lower() for served in _runtime(request).serves()}:
        return None
    try:
        return await asyncio.to_thread(store.get, name)
    except ModelNotFound:
        return None


def _show(model: StoredModel, info: ModelInfo, file: Path | None, asked: ShowRequest) -> bytes:
    return showing.show(
        model,
        info,
        header_of(file) if file is not None else None,
        header_of(model.projectors[0]) if model.projectors else None,
        system=asked.system,
        options=asked.options,
        verbose=asked.verbose,
    )


def _store(request: Request) -> ModelStore | None:
    store: ModelStore | None = request.app.state.store
    return store


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def _ident(request: Request) -> str:
    ident: str = request.state.request_id
    return ident


async def _entry(runtime: Runtime, name: str) -> catalogue.Listed:
    """A model of the configuration, as `/api/tags` lists it."""
    resident = await runtime.resident(name)
    identity = await resident.identity()
    return catalogue.listed(
        name,
        resident.info,
        size=max(identity.size, resident.info.size),
        digest=identity.digest,
        modified_at=responses.timestamp(identity.modified),
    )


def _file(request: Request, resident: Resident) -> Path | None:
    """The file of a model, if it is one on this machine."""
    state = request.app.state
    if resident is not _runtime(request).primary:
        return resident.file
    path: Path | None = state.model_file.path
    return path if path is not None and path.exists() else None


async def _identity(request: Request, resident: Resident | None = None) -> Identity:
    """Digest and date of a model's file, worked out once and kept; the deployed one's without `resident`."""
    state = request.app.state
    if resident is not None and resident is not _runtime(request).primary:
        return await resident.identity()
    file: ModelFile = state.model_file
    return await file.identity()


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json; charset=utf-8")


def _error(error: ServiceError) -> bytes:
    return responses.error(error.message)
