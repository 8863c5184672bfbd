"""`POST /api/create`: a model made from another one or from uploaded files, for who has the admin key."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from akashllm.errors import BadName, BadRequest
from akashllm.names import ModelName
from akashllm.server.api.progress import progress
from akashllm.server.api.store import making, opened, refuse_served
from akashllm.server.guard.body import read_json
from akashllm.server.models import parameters, recipe
from akashllm.server.models.modelfile import Modelfile
from akashllm.server.models.reading import read_file
from akashllm.server.models.recipe import Recipe
from akashllm.server.models.store import ModelStore
from akashllm.server.wire.ollama import creation
from akashllm.server.wire.ollama.creation import CreateRequest

MAX_MODELFILE = 1 << 20
"""Bytes of a Modelfile that is a file of the store."""

router = APIRouter(tags=["management"])


@router.post("/api/create", summary="Make a model")
async def create_model(request: Request, store: Annotated[ModelStore, Depends(opened)]) -> Response:
    """Lines of progress, or with `stream: false` one object at the end."""
    asked = creation.create(await read_json(request, "ollama"))
    wanted = await asyncio.to_thread(_recipe, store, asked)
    await refuse_served(request, wanted.name)
    return await progress(request, making(request, store, wanted), stream=asked.stream)


def _recipe(store: ModelStore, asked: CreateRequest) -> Recipe:
    """What is to be made; may block. Raises `BadRequest`."""
    name = _name(asked.model, "model")
    if asked.files is None and not asked.base:
        if asked.modelfile or asked.path:
            return recipe.from_modelfile(store, name, _modelfile(store, asked), quantize=asked.quantize)
        raise BadRequest("neither 'from' or 'files' was specified", param="from")
    return Recipe(
        name=name,
        base=_name(asked.base, "from") if asked.base else None,
        files=asked.files or {},
        adapters=asked.adapters,
        template=asked.template,
        system=asked.system,
        licenses=asked.licenses,
        parameters=parameters.given(asked.parameters),
        messages=asked.messages,
        info=asked.info,
        renderer=asked.renderer,
        parser=asked.parser,
        requires=asked.requires.removeprefix("v"),
        quantize=asked.quantize,
    )


def _modelfile(store: ModelStore, asked: CreateRequest) -> Modelfile:
    if asked.modelfile:
        return Modelfile.read(asked.modelfile)
    try:
        path = recipe.within(store, asked.path, "path")
    except BadRequest as error:
        raise BadRequest(f"error reading modelfile: {error.message}", param="path") from error
    with store.volume.explained():
        return Modelfile.read(read_file(path, MAX_MODELFILE))


def _name(text: str, param: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except BadName as error:
        raise BadRequest("invalid model name", hint=error.hint, param=param) from error
