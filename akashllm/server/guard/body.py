"""Reading a JSON body from a client that may mean harm: bounded in bytes, time, depth and pieces."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from akashllm.server.guard.dialect import Dialect


async def read_json(request: Request, dialect: Dialect) -> dict[str, Any]:
    """The object in the body, whatever the Content-Type says; `BadRequest`, `TooLarge`, ... otherwise.

    Ollama's dialect follows Go: top-level keys in lower case, only the first JSON value is read, `null` is
    `{}`. OpenAI's wants one whole object.
    """
    raise NotImplementedError
