"""Between the routes and the engine: names, waiting for the model, places in the queue, keep-alive, figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from akashllm.server.domain import Embedding, Embeddings, Event, Generation
from akashllm.server.engine import Engine
from akashllm.server.settings import Settings


class Runtime:
    """One engine, one model under one or more names. Routes get it as `request.app.state.runtime`."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine

    def serves(self) -> tuple[str, ...]:
        """Every name that is answered to, as `model:tag`, the model's own first. A `*` alias is not listed."""
        raise NotImplementedError

    def resolve(self, name: str | None) -> str:
        """The served name (`tiny:latest`) of what a client typed.

        Raises `ModelNotFound`, also for None and "" (a dialect that has a default does not ask), and
        `BadRequest` for what is no name at all.
        """
        raise NotImplementedError

    async def ready(self) -> int:
        """Wait until the model is loaded, and start loading if need be; nanoseconds waited.

        Raises `Busy` after `load_timeout` seconds and `EngineFailed` with the reason.
        """
        raise NotImplementedError

    def loaded(self) -> bool:
        """Whether the model is in memory and answers."""
        raise NotImplementedError

    async def unload(self) -> None:
        """Give the model's memory back, as soon as no request uses it."""
        raise NotImplementedError

    def keep_alive(self, seconds: float | None) -> None:
        """How long the model stays after the last request. None: as is; negative: forever; 0: not at all."""
        raise NotImplementedError

    def expires_at(self) -> datetime | None:
        """When the model will be unloaded if nobody asks anything more (UTC); None: never."""
        raise NotImplementedError

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The engine's events, after limits, queue and load. Closing the iterator cancels the request.

        `Done.timings` says how long the request waited for the model and for a slot.
        """
        raise NotImplementedError
        yield

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input, after the same gates."""
        raise NotImplementedError
