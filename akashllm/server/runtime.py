"""Between the routes and the models: which name means which, and what they have in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Sequence
from datetime import datetime
from typing import cast

from akashllm.errors import BadName, BadRequest, ModelNotFound, ServiceError
from akashllm.names import ModelName
from akashllm.server.admission import Admission
from akashllm.server.defaults import NOTHING
from akashllm.server.domain import Embedding, Embeddings, EngineStats, Event, Generation
from akashllm.server.engine import Engine
from akashllm.server.health import Health
from akashllm.server.library import Library, Offer
from akashllm.server.metrics import Metrics, Snapshot
from akashllm.server.resident import Resident
from akashllm.server.room import Room
from akashllm.server.served import Served
from akashllm.server.settings import Settings

logger = logging.getLogger(__name__)

ANY = "*"
"""The alias that answers to every name."""

PROBES = 4
"""Silent probes at once."""


class Runtime:
    """Every model of the service. Routes get it as `request.app.state.runtime`.

    `primary` is the deployed model: it loads when the service starts, `/health` speaks of it, and the methods
    that name no model are about it. The others come from `libraries`, asked in that order, and are loaded when
    a request names them; those in `always` at the start. All share `room`, and `crowd` if there is one.

    `deployed` says more of the deployed model: its places, its defaults. With `lazy` even that one is loaded
    only when it is asked for.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        health: Health | None = None,
        metrics: Metrics | None = None,
        libraries: Sequence[Library] = (),
        room: Room | None = None,
        crowd: Admission | None = None,
        deployed: Offer | None = None,
        always: Sequence[str] = (),
        lazy: bool = False,
    ) -> None:
        self.settings = settings
        self.room = room or Room()
        self.crowd = crowd
        self.libraries = tuple(libraries)
        self.metrics = metrics or Metrics()
        self.probes = asyncio.Semaphore(PROBES)
        aliases = [name for name in settings.model_aliases if name != ANY]
        self._any = ANY in settings.model_aliases
        self._names: dict[str, str] = {}
        adapters = (name for name, _ in settings.lora)
        for name in (settings.served_name, *aliases, *adapters):
            parsed = ModelName.parse(name)
            self._names.setdefault(parsed.canonical, str(parsed))
        self._deployed = deployed
        self._always = tuple(always)
        self._lazy = lazy
        self.primary = self._settle(deployed, self.serves()[0], engine, health)
        self._residents: dict[Hashable, Resident] = {}
        self._seen: dict[ModelName, Offer] = {}
        self._retired: dict[Resident, asyncio.Task[None]] = {}
        self._starting: asyncio.Task[None] | None = None
        self.metrics.observe(self._snapshot)

    # --- names -------------------------------------------------------------------------------------

    def serves(self) -> tuple[str, ...]:
        """Every name that is answered to, as `model:tag`, the model's own first. A `*` alias is not listed."""
        return tuple(self._names.values())

    def resolve(self, name: str | None) -> str:
        """The served name (`tiny:latest`) of what a client typed, among the deployed model's names.

        Raises `ModelNotFound`, also for None and "" (a dialect that has a default does not ask), and
        `BadRequest` for what is no name at all. Names of other models are `find`'s business.
        """
        if self._any:
            return self.serves()[0]
        served = self._names.get(self._parse(name).canonical)
        if served is None:
            raise self._missing(name)
        return served

    def _parse(self, name: str | None) -> ModelName:
        if not name:
            raise self._missing("")
        try:
            return ModelName.parse(name)
        except BadName:
            raise BadRequest("invalid model name", param="model", hint=self._known()) from None

    def _missing(self, name: str | None) -> ModelNotFound:
        return ModelNotFound(f"model '{name or ''}' not found", param="model", hint=self._known())

    def _known(self) -> str:
        more = ", and what /v1/models lists" if self.libraries else ""
        return f"this service serves {', '.join(self.serves())}{more}"

    async def find(self, name: str | None) -> Served:
        """What a client means by a name, as it is now. Raises as `resolve`; nothing is loaded by it.

        Exact names come first; what is no model's name means the deployed one where its alias is `*`.
        """
        if self.libraries and name:
            try:
                parsed = ModelName.parse(name)
            except BadName:
                return self._primary(self.resolve(name))
            if parsed.canonical not in self._names:
                offer = await asyncio.to_thread(self._look_up, parsed)
                if offer is not None:
                    return await self._offered(parsed, offer)
                self._let_go(parsed)
        return self._primary(self.resolve(name))

    async def resident(self, name: str | None) -> Resident:
        """The model a client means by a name."""
        return (await self.find(name)).resident

    def residents(self) -> tuple[Resident, ...]:
        """Every model that is or was in memory, the deployed one first."""
        return (self.primary, *self._residents.values(), *self._retired)

    async def offers(self) -> list[Offer]:
        """Every model that could be loaded beside the deployed one; of equal names the first."""
        found: dict[str, Offer] = {}
        for library in self.libraries:
            for offer in await asyncio.to_thread(library.list):
                name = ModelName.parse(offer.name).canonical
                if name not in self._names:
                    found.setdefault(name, offer)
        return list(found.values())

    def _primary(self, name: str) -> Served:
        defaults = self._deployed.defaults if self._deployed is not None else NOTHING
        return Served(name=name, resident=self.primary, defaults=defaults)

    def _look_up(self, name: ModelName) -> Offer | None:
        return next((offer for library in self.libraries if (offer := library.find(name)) is not None), None)

    async def _offered(self, name: ModelName, offer: Offer) -> Served:
        """The resident of an offer: the one that has it in memory already, or a new one."""
        resident = self._residents.get(offer.key)
        if resident is None:
            engine = await asyncio.to_thread(offer.build)
            resident = self._residents.get(offer.key)
            if resident is None:
                resident = self._residents[offer.key] = self._settle(offer, offer.name, engine)
                resident.health.asked()
            else:
                await engine.close()
        before = self._seen.get(name)
        if before is not None and before.key != offer.key:
            self._let_go(name)
        self._seen[name] = offer
        if resident.name == offer.name:
            resident.digest = offer.digest
        return Served(name=offer.name, resident=resident, defaults=offer.defaults, digest=offer.digest)

    def _settle(self, offer: Offer | None, name: str, engine: Engine, health: Health | None = None) -> Resident:
        said = offer or Offer(name=name, key=name, build=lambda: engine)
        return Resident(
            name,
            engine,
            self.settings,
            metrics=self.metrics,
            health=health,
            room=self.room,
            crowd=self.crowd,
            slots=said.slots,
            keep_alive=said.keep_alive,
            digest=said.digest,
            measure=lambda: said.measure().need,
            pinned=said.pinned,
            preload=said.preload,
            place=said.place,
        )

    def _let_go(self, name: ModelName) -> None:
        """The name means nothing any more, or something else: what only it meant closes once it is idle."""
        gone = self._seen.pop(name, None)
        resident = self._residents.get(gone.key) if gone is not None else None
        if gone is None or resident is None:
            return
        heir = next((offer for offer in self._seen.values() if offer.key == gone.key), None)
        if heir is not None:
            if resident.name == gone.name:
                resident.name, resident.digest = heir.name, heir.digest
        else:
            del self._residents[gone.key]
            task = asyncio.get_running_loop().create_task(resident.retire())
            self._retired[resident] = task
            task.add_done_callback(lambda _: self._retired.pop(resident, None))

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
        """Begin to load the deployed model and those that are always there, without waiting for them."""
        if self._lazy:
            self.health.asked()
        else:
            self.primary.start()
        if self._always:
            self._starting = asyncio.get_running_loop().create_task(self._start_others())

    async def _start_others(self) -> None:
        for name in self._always:
            try:
                served = await self.find(name)
            except ServiceError as error:
                logger.warning("%s is not loaded: %s", name, error.message)
            else:
                if served.resident is not self.primary:
                    served.resident.start()

    async def close(self) -> None:
        """Stop timers, loads and engines."""
        tasks = [*self._retired.values(), *([self._starting] if self._starting is not None else [])]
        residents = self.residents()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(resident.close() for resident in residents))

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

    def _snapshot(self) -> Snapshot:
        """What `/metrics` shows: the deployed model's state, and the rest over all models."""
        residents = self.residents()
        every = [resident.engine.stats() for resident in residents]
        places = [resident.admission for resident in residents]
        total = EngineStats(
            kv_used=sum(stats.kv_used for stats in every),
            kv_size=sum(stats.kv_size for stats in every),
            steps=sum(stats.steps for stats in every),
            restarts=sum(stats.restarts for stats in every),
        )
        return Snapshot(
            state=self.health.state,
            stats=total,
            used=sum(place.used for place in places),
            slots=sum(place.slots for place in places),
            waiting=sum(place.waiting for place in places),
            models={resident.name: resident.need if resident.loaded() else 0 for resident in residents},
            budget=self.room.budget,
        )
