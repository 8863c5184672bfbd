"""Long work on models: its answer, line by line or at the end, and a list of the pulls under way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from akashllm.errors import ServiceError
from akashllm.names import ModelName
from akashllm.server import streaming
from akashllm.server.models.pull import pull
from akashllm.server.models.registry import Registries
from akashllm.server.models.steps import Step
from akashllm.server.models.store import ModelStore
from akashllm.server.runtime import Runtime
from akashllm.server.wire.ollama import management, responses


class Pulls:
    """The models that clients have pulled now, and how far each is."""

    def __init__(self) -> None:
        self._now: dict[object, tuple[str, Step]] = {}

    def now(self) -> dict[str, Step]:
        """The newest step by the model's name; one pull of a model stands for all of it."""
        return dict(self._now.values())

    async def follow(self, name: ModelName, steps: AsyncGenerator[Step]) -> AsyncGenerator[Step]:
        """The steps of a pull, which is on the list until they end."""
        ticket = object()
        try:
            async with aclosing(steps):
                async for step in steps:
                    self._now[ticket] = str(name), step
                    yield step
        finally:
            self._now.pop(ticket, None)


def pulling(
    request: Request, store: ModelStore, name: ModelName, *, insecure: bool = False
) -> AsyncGenerator[Step]:
    """`pull` from the service's registries, and listed while it runs."""
    registries = cast("Registries", request.app.state.registries)
    pulls = cast("Pulls", request.app.state.pulls)
    return pulls.follow(name, pull(store, registries, name, insecure=insecure))


async def progress(request: Request, steps: AsyncGenerator[Step], *, stream: bool) -> Response:
    """A line for every step; or the word that all of them are done. The service is not idle meanwhile."""
    metrics = cast("Runtime", request.app.state.runtime).metrics

    async def lines() -> AsyncIterator[bytes]:
        with metrics.working():
            async with aclosing(steps):
                async for step in steps:
                    yield management.progress(step.status, step.digest, step.total, step.completed)

    async def last() -> bytes:
        with metrics.working():
            async with aclosing(steps):
                async for _ in steps:
                    pass
        return b'{"status":"success"}'

    if stream:
        return streaming.ndjson(request, lines(), error=_error)
    return await streaming.whole(request, last(), error=_error)


def _error(error: ServiceError) -> bytes:
    return responses.error(error.message)
