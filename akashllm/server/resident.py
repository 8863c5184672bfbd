"""One model: its engine, whether it is in memory and how long it stays, its places, and what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime

import msgspec

from akashllm.errors import Busy, EngineFailed, ServiceError
from akashllm.server.admission import Admission, Place
from akashllm.server.domain import Delta, Done, Embedding, Embeddings, Event, Generation, ModelInfo
from akashllm.server.engine import Engine
from akashllm.server.guard.limits import check
from akashllm.server.health import Health
from akashllm.server.logs import current
from akashllm.server.metrics import Metrics
from akashllm.server.residence import Residence
from akashllm.server.settings import Settings

_COOL_DOWN = 30.0
"""Seconds after a failed load during which requests are refused instead of trying again."""
_NS = 1e-9


class Resident:
    """A model that is in memory, or could be. `name` is the first it was asked for by, as `model:tag`.

    Only a request in flight keeps it there for certain: whoever waits for its load counts as one. `digest` is
    the manifest's; empty for the deployed model, whose file says it.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        settings: Settings,
        *,
        metrics: Metrics,
        health: Health | None = None,
        slots: int | None = None,
        keep_alive: float | None = None,
        digest: str = "",
    ) -> None:
        self.name = name
        self.digest = digest
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.health = health or Health(engine)
        self.admission = Admission(slots or settings.concurrency, settings.queue)
        stay = settings.keep_alive if keep_alive is None else keep_alive
        self._residence = Residence(stay, self._unload_now)
        self._loading: asyncio.Task[None] | None = None
        self._switch = asyncio.Lock()
        self._failed_at: float | None = None

    @property
    def info(self) -> ModelInfo:
        """What the engine knows of the model."""
        return self.engine.info

    # --- the model in memory -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the model, without waiting for it."""
        self._load()

    async def ready(self) -> int:
        """Wait until the model is loaded, and start loading if need be; nanoseconds waited.

        Raises `Busy` after `load_timeout` seconds and `EngineFailed` with the reason.
        """
        if self.loaded() and not self._switch.locked():
            return 0
        if self.engine.state == "failed" and self._failed_at is not None:
            left = self._failed_at + _COOL_DOWN - time.monotonic()
            if left > 0:
                reason = self.health.reason or "the last attempt to load the model failed"
                raise EngineFailed(reason, retry_after=left)
        began = time.perf_counter_ns()
        try:
            async with asyncio.timeout(self.settings.load_timeout):
                await asyncio.shield(self._load())
        except TimeoutError:
            percent = "" if self.health.percent is None else f" ({self.health.percent:.0f} % done)"
            raise Busy(f"the model is still loading{percent}", code="model_loading", retry_after=15) from None
        waited = time.perf_counter_ns() - began
        self.metrics.load_time.observe(waited * _NS)
        return waited

    def loaded(self) -> bool:
        """Whether the model is in memory and answers."""
        return self.engine.state == "ready"

    def _load(self) -> asyncio.Task[None]:
        """The one load that is going on, begun now if there is none."""
        if self._loading is None or self._loading.done():
            self.health.asked()
            self._loading = asyncio.get_running_loop().create_task(self._load_now())
            self._loading.add_done_callback(_retrieve)
        return self._loading

    async def _load_now(self) -> None:
        async with self._switch:
            try:
                await self.engine.load()
            except EngineFailed:
                self._failed_at = time.monotonic()
                raise
            self._failed_at = None

    async def unload(self) -> None:
        """Give the model's memory back, as soon as no request uses it."""
        if not self._residence.leave_when_idle():
            await self._unload_now()

    async def _unload_now(self) -> None:
        async with self._switch:
            if not self._residence.busy and self.engine.state == "ready":
                await self.engine.unload()
                self._residence.forget()

    def keep_alive(self, seconds: float | None) -> None:
        """How long the model stays after the last request. None: as is; negative: forever; 0: not at all."""
        if seconds is not None:
            self._residence.keep(seconds)

    def expires_at(self) -> datetime | None:
        """When the model will be unloaded if nobody asks anything more (UTC); None: never."""
        return self._residence.expires_at()

    async def close(self) -> None:
        """Stop timers, loads and the engine."""
        self._residence.close()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        await self.engine.close()

    # --- requests ----------------------------------------------------------------------------------

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The engine's events, after limits, queue and load. Closing the iterator cancels the request.

        `Done.timings` says how long the request waited for the model and for a slot.
        """
        check(request, self.settings)
        began = time.perf_counter()
        outcome = "cancelled"
        try:
            with self.admission.join(request.n) as place, self._residence:
                load, queue = await self._wait(place)
                async with contextlib.aclosing(self._measured(request, began)) as events:
                    async for event in events:
                        if type(event) is Done:
                            outcome = "done"
                            timings = msgspec.structs.replace(event.timings, load=load, queue=queue)
                            yield msgspec.structs.replace(event, timings=timings)
                        else:
                            yield event
        except ServiceError as error:
            outcome = error.code or type(error).__name__
            raise
        finally:
            self.metrics.outcome(outcome)

    async def _measured(self, request: Generation, began: float) -> AsyncGenerator[Event]:
        """The engine's events, with the time between them counted."""
        record = current.get()
        inter_token = self.metrics.inter_token.observe
        last: dict[int, float] = {}
        events = self.engine.generate(request)
        try:
            async for event in events:
                if type(event) is Delta:
                    now = time.perf_counter()
                    previous = last.get(event.index)
                    if previous is not None:
                        inter_token((now - previous) / (event.tokens or 1))
                    elif not last:
                        self.metrics.first_token.observe(now - began)
                        record.first_token = now - began
                    last[event.index] = now
                elif type(event) is Done:
                    self.metrics.usage(event.usage)
                    record.prompt_tokens += event.usage.prompt_tokens
                    record.completion_tokens += event.usage.completion_tokens
                    record.cached_tokens += event.usage.cached_tokens
                yield event
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input, after the same gates."""
        check(request, self.settings)
        with self.admission.join(1) as place, self._residence:
            load, queue = await self._wait(place)
            answer = await self.engine.embed(request)
            current.get().prompt_tokens += answer.prompt_tokens
            timings = msgspec.structs.replace(answer.timings, load=load, queue=queue)
            return msgspec.structs.replace(answer, timings=timings)

    async def _wait(self, place: Place) -> tuple[int, int]:
        """Wait for the model, then for a slot; nanoseconds of each."""
        load = await self.ready()
        began = time.perf_counter_ns()
        await place.wait(self.settings.queue_timeout)
        queue = time.perf_counter_ns() - began
        self.metrics.queue_time.observe(queue * _NS)
        return load, queue


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waits has the error; if nobody does, the engine's state has it."""
    if not task.cancelled():
        task.exception()
