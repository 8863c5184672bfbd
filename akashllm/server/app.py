"""The application: one factory that joins settings, engine, dialects and guards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from akashllm.errors import BadRequest, NoSuchRoute, ServiceError, WrongMethod
from akashllm.server.api import audio, chat_page, create, ollama, openai, ops, store
from akashllm.server.api.progress import Pulls
from akashllm.server.engine import Engine, Transcriber
from akashllm.server.fetching import model_path
from akashllm.server.fleet import make_runtime
from akashllm.server.guard.auth import require_key
from akashllm.server.guard.dialect import dialect_of, error_response
from akashllm.server.guard.edge import Edge
from akashllm.server.hearing import Hearing, served_name
from akashllm.server.models.identity import ModelFile
from akashllm.server.models.registry import Registries
from akashllm.server.models.store import ModelStore
from akashllm.server.runtime import Runtime
from akashllm.server.settings import STORE_ENGINE, Settings
from akashllm.version import __version__

logger = logging.getLogger(__name__)

_CORS_HEADERS = (
    *("Authorization", "Content-Type", "X-Api-Key", "X-Request-ID", "X-Requested-With", "User-Agent"),
    *("OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project"),
    *(
        f"x-stainless-{name}"
        for name in ("arch", "async", "custom-poll-interval", "helper-method", "lang", "os")
    ),
    *(f"x-stainless-{name}" for name in ("package-version", "poll-helper", "retry-count", "runtime")),
    *(f"x-stainless-{name}" for name in ("runtime-version", "timeout")),
)
"""What a page may send: besides the keys, what OpenAI's and Ollama's own clients add to every request.

Ollama's list is in its `server/routes.go`; without it a browser refuses to send their requests at all.
"""


def create_app(settings: Settings, engine: Engine, transcriber: Transcriber | None = None) -> FastAPI:
    """The service over `engine`, and over `transcriber` for what is said, if `engine` is none itself.

    `app.state` has `runtime`, `settings`, `model_file` (who the deployed model is), `store`, `hearing` (or
    None), `registries` and `pulls`.

    The model begins to load when the application starts and the application does not wait for it: the port
    answers first. When the application ends it closes the engine.
    """
    stored = settings.models and settings.engine == STORE_ENGINE
    models = ModelStore(Path(settings.models)) if stored else None
    runtime = make_runtime(settings, engine, store=models)
    hearing = _hearing(settings, runtime, transcriber)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        runtime.start()
        if hearing is not None:
            hearing.start()
        pruning = asyncio.ensure_future(asyncio.to_thread(_prune, models, settings))
        try:
            yield
        finally:
            if hearing is not None:
                await hearing.close()
            await runtime.close()
            await pruning

    app = FastAPI(
        title="akashllm",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(require_key)],
    )
    app.state.settings = settings
    app.state.runtime = runtime
    app.state.model_file = ModelFile(partial(model_path, settings, engine), runtime.serves()[0])
    app.state.store = models
    app.state.hearing = hearing
    app.state.registries = Registries(settings.registries, settings.registry_mirrors, settings.registry_auth)
    app.state.pulls = Pulls()
    app.state.stopping = False
    app.include_router(ops.router)
    app.include_router(chat_page.router)
    app.include_router(store.router)
    app.include_router(create.router)
    app.include_router(ollama.router)
    for prefix in ("/v1", "/openai/v1"):
        app.include_router(store.openai, prefix=prefix)
        app.include_router(openai.router, prefix=prefix)
        app.include_router(audio.router, prefix=prefix)
    if settings.docs:
        app.include_router(_description(app))
    app.add_exception_handler(ServiceError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE", "HEAD"],
            allow_headers=_CORS_HEADERS,
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Edge, settings=settings, metrics=runtime.metrics)
    return app


def _hearing(settings: Settings, runtime: Runtime, transcriber: Transcriber | None) -> Hearing | None:
    """Who transcribes: an engine of its own, or the only one if it can."""
    if transcriber is not None:
        return Hearing(transcriber, settings, served_name(settings), metrics=runtime.metrics, own=True)
    if isinstance(runtime.engine, Transcriber):
        return Hearing(runtime.engine, settings, runtime.serves()[0], metrics=runtime.metrics, own=False)
    return None


def _prune(models: ModelStore | None, settings: Settings) -> None:
    """Remove what no model of the store uses. That it cannot be done is no reason not to serve."""
    if models is None or not settings.prune:
        return
    try:
        removed = models.prune(patience=1.0)
    except ServiceError as error:
        logger.warning("the model store was not tidied up: %s", error.message)
    else:
        if removed:
            logger.info("removed %d files of the model store that no model uses", removed)


def _description(app: FastAPI) -> APIRouter:
    """The OpenAPI document, behind the key like everything else."""
    router = APIRouter()

    @router.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(_numbered(app))

    return router


def _numbered(app: FastAPI) -> dict[str, Any]:
    """The document with an id for every operation: FastAPI gives all methods of a route the same one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate Operation ID")
        document = app.openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["operationId"] = "_".join([method, *re.findall(r"\w+", path)])
    return document


async def _answer(request: Request, error: Exception) -> Response:
    """An error in the dialect of the path; unknown paths outside /v1 get what Ollama's router says."""
    path = request.scope["path"]
    match error:
        case ServiceError():
            return error_response(path, error)
        case HTTPException(status_code=404) if dialect_of(path) == "ollama":
            return PlainTextResponse("404 page not found", 404)
        case HTTPException(status_code=404):
            return error_response(path, NoSuchRoute(f"no such path: this service has no {_quoted(path)}"))
        case HTTPException(status_code=405):
            if dialect_of(path) == "ollama":
                response: Response = PlainTextResponse("405 method not allowed", 405)
            else:
                response = error_response(path, WrongMethod(f"{_quoted(path)} does not take that method"))
            response.headers["allow"] = _methods(request.app, path)
            return response
        case _:
            return error_response(path, BadRequest("the request is malformed"))


def _quoted(path: str) -> str:
    """A path as an error may repeat it: short, and nothing but harmless characters."""
    return "".join(char if char.isalnum() or char in "/._-" else "?" for char in path[:100] if char.isascii())


def routes(app: FastAPI) -> Iterator[tuple[str, object]]:
    """Every path the application serves with its endpoint, also those of included routers."""
    for route in _flat(app.routes):
        yield getattr(route, "path", repr(route)), getattr(route, "endpoint", None)


def _flat(found: Sequence[object]) -> Iterator[Any]:
    for route in found:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is not None:
            yield from contexts()
        else:
            yield route


def _methods(app: FastAPI, path: str) -> str:
    """The methods of a path, as `Allow` lists them: the router names only those of the first route it finds."""
    return ", ".join(
        sorted(
            {method for route in _flat(app.routes) if route.path_regex.match(path) for method in route.methods}
        )
    )
