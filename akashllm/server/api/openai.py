"""OpenAI's routes, mounted under /v1 and /openai/v1: parse, ask the runtime, serialise."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, TypeVar, cast

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from akashllm.errors import BadRequest, ContextOverflow, ModelNotFound, ServiceError
from akashllm.server.api.merging import merge
from akashllm.server.defaults import NOTHING, said_by
from akashllm.server.domain import Event
from akashllm.server.guard.body import read_json
from akashllm.server.hearing import Hearing
from akashllm.server.models.store import ModelStore
from akashllm.server.resident import Resident
from akashllm.server.runtime import Runtime
from akashllm.server.served import Served
from akashllm.server.streaming import sse, whole
from akashllm.server.wire import openai as wire
from akashllm.server.wire.openai.listing import short
from akashllm.server.wire.openai.reading import Fields

router = APIRouter(tags=["openai"])

_STARTED = int(time.time())
_Call = TypeVar("_Call", bound=wire.Call)


def _runtime(request: Request) -> Runtime:
    return cast("Runtime", request.app.state.runtime)


async def _asked(request: Request) -> tuple[Mapping[str, Any], Served, dict[str, Any]]:
    """The body, the model, and what every reader needs of one: its name as typed and as served, what it is.

    A request without a model means the one that is served.
    """
    runtime = _runtime(request)
    body = await read_json(request, "openai")
    typed = Fields(body).string("model") or short(runtime.serves()[0])
    served = await _find(runtime, typed)
    return body, served, {"name": typed, "model": served.name, "info": served.resident.info}


async def _find(runtime: Runtime, name: str) -> Served:
    """The model that is meant. Ids of other services (`ft:a:b:c`, `@cf/x`) are no names here: not found."""
    try:
        return await runtime.find(name)
    except BadRequest as error:
        raise ModelNotFound(f"model '{name[:100]}' not found", param="model", hint=error.hint) from error


@router.post("/chat/completions", summary="Answer a chat")
async def chat_completions(request: Request) -> Response:
    """A `chat.completion`, or with `stream` a series of `chat.completion.chunk`."""
    body, served, asked = await _asked(request)
    call = _with_defaults(wire.read_chat(body, **asked), served, body)
    events = _events(served.resident, call, "messages")
    if call.stream:
        return sse(request, _frames(wire.ChatStream(call), events), error=wire.error_event)

    async def answer() -> bytes:
        return wire.chat_answer(call, await _collect(call, events))

    return await whole(request, answer(), error=wire.error_body)


@router.post("/completions", summary="Continue a raw prompt")
async def completions(request: Request) -> Response:
    """A `text_completion`, or with `stream` a series of them."""
    body, served, asked = await _asked(request)
    call = _with_defaults(wire.read_completion(body, **asked), served, body)
    texts = await _prompt_texts(served.resident, call)
    events = _events(served.resident, call, "prompt")
    if call.stream:
        return sse(request, _frames(wire.CompletionStream(call, texts), events), error=wire.error_event)

    async def answer() -> bytes:
        return wire.completion_answer(call, await _collect(call, events), texts)

    return await whole(request, answer(), error=wire.error_body)


@router.post("/embeddings", summary="Embed texts")
async def embeddings(request: Request) -> Response:
    """One vector an input."""
    body, served, asked = await _asked(request)
    call = wire.read_embedding(body, **asked)

    async def answer() -> bytes:
        with _blaming({"prompt": "input"}):
            return wire.embedding_answer(call, await served.resident.embed(call.embedding))

    return await whole(request, answer(), error=wire.error_body)


@router.api_route("/models", methods=["GET", "HEAD"], summary="List the names of the model that is served")
async def list_models(request: Request) -> Response:
    """Every name the service answers to, and those of its configuration and its store."""
    runtime = _runtime(request)
    others = await _others(request)
    return _json(wire.models_answer(runtime.serves(), _created(runtime), runtime.engine.info.context, others))


@router.api_route("/models/{name:path}", methods=["GET", "HEAD"], summary="Describe a model")
async def retrieve_model(request: Request, name: str) -> Response:
    """The model, under any name that a request may use. Names may have slashes and colons."""
    runtime = _runtime(request)
    made = {wire.short(other).lower(): created for other, created in await _others(request)}
    try:
        served = await _find(runtime, name)
    except ModelNotFound:
        if (created := made.get(wire.short(name).lower())) is None:
            raise
        return _json(wire.model_answer(name, created))
    deployed = served.name in runtime.serves()
    created = _created(runtime) if deployed else made.get(wire.short(served.name).lower(), _STARTED)
    return _json(wire.model_answer(name, created, served.resident.info.context))


async def _others(request: Request) -> list[tuple[str, int]]:
    """The models that were not deployed, with when each was made: configured, stored, and what transcribes."""
    runtime = _runtime(request)
    store: ModelStore | None = request.app.state.store
    stored = await asyncio.to_thread(store.list) if store is not None else []
    others = [(offer.name, _created(runtime)) for offer in await runtime.offers() if not offer.digest]
    others += [(str(model.name), model.modified // 1_000_000_000) for model in stored]
    hearing: Hearing | None = request.app.state.hearing
    if hearing is not None and hearing.name not in runtime.serves():
        others.append((hearing.name, _STARTED))
    return others


def _with_defaults(call: _Call, served: Served, body: Mapping[str, Any]) -> _Call:
    """The call with what the model's author wants where the client says nothing."""
    if served.defaults is NOTHING:
        return call
    said = said_by(body)
    generations = tuple(served.defaults.apply(generation, said) for generation in call.generations)
    return msgspec.structs.replace(call, generations=generations)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json; charset=utf-8")


def _created(runtime: Runtime) -> int:
    """When the model's file was written, in seconds since the epoch; else when this service started."""
    try:
        return int(runtime.settings.model_file.stat().st_mtime)
    except OSError:
        return _STARTED


async def _prompt_texts(resident: Resident, call: wire.CompletionCall) -> list[str]:
    """What `echo` repeats. Token ids need the model to become text."""
    if not call.echo:
        return []
    if any(isinstance(prompt, tuple) for prompt in call.prompts):
        await resident.ready()
    return [
        prompt if isinstance(prompt, str) else await resident.engine.detokenize(list(prompt))
        for prompt in call.prompts
    ]


@contextlib.contextmanager
def _blaming(names: Mapping[str, str]) -> Any:
    """Name the parameter of this dialect that is at fault, instead of the engine's word for it."""
    try:
        yield
    except ServiceError as error:
        if error.param is None and isinstance(error, ContextOverflow):
            error.param = "prompt"
        error.param = names.get(error.param or "", error.param)
        raise


_SOURCES = {"gbnf": "grammar", "json_object": "response_format", "json_schema": "response_format"}


def _names(call: wire.Call, prompt: str) -> dict[str, str]:
    """What this dialect calls the prompt, and what the constraint of this request came from."""
    constraint = call.generations[0].constraint
    return {"prompt": prompt, "constraint": "tools" if constraint is None else _SOURCES[constraint.kind]}


_Numbered = AsyncGenerator[tuple[int, Event]]


async def _events(resident: Resident, call: wire.Call, param: str) -> _Numbered:
    """The events of all generations of a request, as many at once as there are slots for their choices."""
    at_once = max(1, resident.info.slots // call.generations[0].n)
    with _blaming(_names(call, param)):
        async with contextlib.aclosing(merge(call.generations, resident.generate, at_once=at_once)) as events:
            async for numbered in events:
                yield numbered


async def _frames(stream: wire.ChatStream | wire.CompletionStream, events: _Numbered) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(events):
        async for generation, event in events:
            frame = stream.feed(event, generation)
            if frame:
                yield frame
    yield stream.end()


async def _collect(call: wire.Call, events: _Numbered) -> wire.Collected:
    collected = wire.Collected(len(call.generations), call.generations[0].n)
    async with contextlib.aclosing(events):
        async for generation, event in events:
            collected.feed(event, generation)
    return collected
