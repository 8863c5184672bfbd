"""Between the routes and the models: which name means which, and what they have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import cast

from akashllm.errors import BadName, BadRequest, ModelNotFound
from akashllm.names import ModelName
from akashllm.server.admission import Admission
from akashllm.server.domain import Embedding, Embeddings, EngineStats, Event, Generation
from akashllm.server.engine import Engine, State
from akashllm.server.health import Health
from akashllm.server.metrics import Metrics
from akashllm.server.resident import Resident
from akashllm.server.served import Served
from akashllm.server.settings import Settings

ANY = "*"
"""The alias that answers to every name."""

PROBES = 4
"""Silent probes at once."""


class Runtime:
    """Every model of the service. Routes get it as `request.app.state.runtime`.

    `primary` is the deployed model: it loads when the service starts, `/health` speaks of it, and the methods
    that name no model are about it.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        health: Health | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.probes = asyncio.Semaphore(PROBES)
        aliases = [name for name in settings.model_aliases if name != ANY]
        self._any = ANY in settings.model_aliases
        self._names: dict[str, str] = {}
        for name in (settings.served_name, *aliases):
            parsed = ModelName.parse(name)
            self._names.setdefault(parsed.canonical, str(parsed))
        self.primary = Resident(self.serves()[0], engine, settings, metrics=self.metrics, health=health)
        self.metrics.observe(self._snapshot)

    # --- names -------------------------------------------------------------------------------------

    def serves(self) -> tuple[str, ...]:
        """Every name that is answered to, as `model:tag`, the model's own first. A `*` alias is not listed."""
        return tuple(self._names.values())

    def resolve(self, name: str | None) -> str:
        """The served name (`tiny:latest`) of what a client typed.

        Raises `ModelNotFound`, also for None and "" (a dialect that has a default does not ask), and
        `BadRequest` for what is no name at all.
        """
        if self._any:
            return self.serves()[0]
        if not name:
            raise ModelNotFound("model '' not found", param="model", hint=self._known())
        try:
            parsed = ModelName.parse(name)
        except BadName:
            raise BadRequest("invalid model name", param="model", hint=self._known()) from None
        served = self._names.get(parsed.canonical)
        if served is None:
            raise ModelNotFound(f"model '{name}' not found", param="model", hint=self._known())
        return served

    def _known(self) -> str:
        return f"this service serves {', '.join(self.serves())}"

    async def find(self, name: str | None) -> Served:
        """What a client means by a name. Raises as `resolve`; nothing is loaded by it."""
        return Served(name=self.resolve(name), resident=self.primary)

    async def resident(self, name: str | None) -> Resident:
        """The model a client means by a name."""
        return (await self.find(name)).resident

    def residents(self) -> tuple[Resident, ...]:
        """Every model that is or may soon be in memory, the deployed one first."""
        return (self.primary,)

    # --- requests ----------------------------------------------------------------------------------

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The events of the model the request names. Closing the iterator cancels the request."""
        resident = await self.resident(request.model)
        events = cast("AsyncGenerator[Event]", resident.generate(request))
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input, from the model the request names."""
        return await (await self.resident(request.model)).embed(request)

    # --- all of them, and the deployed one ---------------------------------------------------------

    def start(self) -> None:
        """Begin to load the deployed model, without waiting for it."""
        self.primary.start()

    async def close(self) -> None:
        """Stop timers, loads and engines."""
        for resident in self.residents():
            await resident.close()

    @property
    def engine(self) -> Engine:
        """The deployed model's engine."""
        return self.primary.engine

    @property
    def health(self) -> Health:
        """The deployed model's health, which is the service's."""
        return self.primary.health

    @property
    def admission(self) -> Admission:
        """The deployed model's places."""
        return self.primary.admission

    async def ready(self) -> int:
        """Wait for the deployed model; nanoseconds waited."""
        return await self.primary.ready()

    def loaded(self) -> bool:
        """Whether the deployed model is in memory."""
        return self.primary.loaded()

    async def unload(self) -> None:
        """Give the deployed model's memory back once it is idle."""
        await self.primary.unload()

    def keep_alive(self, seconds: float | None) -> None:
        """How long the deployed model stays after its last request."""
        self.primary.keep_alive(seconds)

    def expires_at(self) -> datetime | None:
        """When the deployed model will be unloaded."""
        return self.primary.expires_at()

    def _snapshot(self) -> tuple[State, EngineStats, int, int, int]:
        admission = self.admission
        return self.health.state, self.engine.stats(), admission.used, admission.slots, admission.waiting
