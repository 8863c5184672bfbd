"""Which dialect a path speaks, and an error in it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
from starlette.responses import Response

from akashllm.errors import ServiceError, Unauthorized
from akashllm.server.wire.openai.errors import error_body as openai_error

Dialect = Literal["ollama", "openai"]

_OPENAI_PREFIXES = ("/v1/", "/openai/")
_OPENAI_PATHS = ("/v1", "/openai")


def dialect_of(path: str) -> Dialect:
    """OpenAI's under /v1 and /openai, Ollama's everywhere else."""
    return "openai" if path.startswith(_OPENAI_PREFIXES) or path in _OPENAI_PATHS else "ollama"


def error_bytes(dialect: Dialect, error: ServiceError) -> bytes:
    """The JSON body of `error`: Ollama has one string, OpenAI an object of four."""
    if dialect == "openai":
        return openai_error(error)
    return msgspec.json.encode({"error": error.message})


def error_headers(error: ServiceError) -> dict[str, str]:
    """What an error says in headers: how to authenticate, when to come back (whole seconds)."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return headers


def error_response(path: str, error: ServiceError) -> Response:
    """`error` as an HTTP response in the dialect of `path`."""
    return Response(
        error_bytes(dialect_of(path), error),
        status_code=error.http_status or 500,
        media_type="application/json; charset=utf-8",
        headers=error_headers(error),
    )
