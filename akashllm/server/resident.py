"""One model: its engine, whether it is in memory and how long it stays, its places, and what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from akashllm.errors import Busy, EngineFailed, ServiceError
from akashllm.server.admission import Admission, Place
from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Embedding,
    Embeddings,
    Event,
    Generation,
    Message,
    ModelInfo,
)
from akashllm.server.engine import Engine, State
from akashllm.server.guard.limits import check
from akashllm.server.health import Health
from akashllm.server.logs import current
from akashllm.server.metrics import Metrics
from akashllm.server.models.identity import Identity, ModelFile
from akashllm.server.residence import Residence
from akashllm.server.room import Room
from akashllm.server.settings import Settings


@runtime_checkable
class Fetching(Protocol):
    """An engine whose weights may have to be fetched before they can be loaded."""

    @property
    def fetching(self) -> bool:
        """Whether they are coming now."""
        ...

    async def fetch(self) -> None:
        """Have them here. Raises `EngineFailed`."""
        ...


logger = logging.getLogger(__name__)

_COOL_DOWN = 30.0
"""Seconds after a failed load during which requests are refused instead of trying again."""
_RETRY = 15.0
_NS = 1e-9
_uses = itertools.count(1)


class Resident:
    """A model that is in memory, or could be. `name` is the first it was asked for by, as `model:tag`.

    Only a request in flight keeps it there for certain: whoever waits for its load counts as one. It is a
    `Tenant` of the room that all models share; `crowd` bounds the answers of all of them together.

    digest     of the manifest; empty for the deployed model, whose file says it
    slots      answers at once;  keep_alive: seconds of idleness; the settings' if None
    measure    says what it will take in memory, in bytes; may block
    pinned     it stays in memory
    preload    messages whose key-value cache is made when the model is loaded
    place      where its weights are, if they are here
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        settings: Settings,
        *,
        metrics: Metrics,
        room: Room | None = None,
        crowd: Admission | None = None,
        health: Health | None = None,
        slots: int | None = None,
        keep_alive: float | None = None,
        digest: str = "",
        measure: Callable[[], int] = int,
        pinned: bool = False,
        preload: tuple[Message, ...] = (),
        place: Callable[[], Path | None] | None = None,
    ) -> None:
        self.name = name
        self._file = ModelFile(place, name)
        self.digest = digest
        self.pinned = pinned
        self.used = 0
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.health = health or Health(engine)
        self.admission = Admission(slots or settings.concurrency, settings.queue)
        stay = settings.keep_alive if keep_alive is None else keep_alive
        self._residence = Residence(-1.0 if pinned else stay, self._unload_now)
        self._room = room or Room()
        self._crowd = crowd
        self._preload = preload
        self._measure = measure
        self._estimate = engine.info.size
        self._true = 0
        self._loading: asyncio.Task[None] | None = None
        self._aside: set[asyncio.Task[None]] = set()
        self._entered = False
        self._wanted = False
        self._waiting = 0
        self._switch = asyncio.Lock()
        self._failed_at: float | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.users = 0
        """Requests in flight, and those that wait until it has made room for another model."""
        self._unused = asyncio.Event()
        self._unused.set()
        self._closed = False
        engine.watch(self._watch)

    @property
    def info(self) -> ModelInfo:
        """What the engine knows of the model."""
        return self.engine.info

    # --- the model in memory -----------------------------------------------------------------------

    @property
    def file(self) -> Path | None:
        """Its weights, if they are a file on this machine."""
        return self._file.path

    async def identity(self) -> Identity:
        """Digest and date of its file; the name's if there is none."""
        found = await self._file.identity()
        return found._replace(digest=self.digest) if self.digest else found

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._residence.busy

    @property
    def need(self) -> int:
        """Bytes it takes: what it took the last time, or else the estimate."""
        return self._true or self._estimate

    def start(self) -> None:
        """Begin to load the model, without waiting for it."""
        self._wanted = True
        self._load()

    async def ready(self) -> int:
        """Wait until the model is loaded, and start loading if need be; nanoseconds waited.

        Raises `Busy` after `load_timeout` seconds and `EngineFailed` with the reason.
        """
        async with self._in_flight():
            return await self._ready()

    @contextlib.asynccontextmanager
    async def _in_flight(self) -> AsyncIterator[None]:
        """Count as a request, once the model is not on its way out."""
        self.users += 1
        self._unused.clear()
        try:
            if not self._open.is_set():
                await self._let_in()
            if self._closed:
                raise Busy("the model has just been replaced: ask again", code="model_loading", retry_after=1)
            self.used = next(_uses)
            with self._residence, self.metrics.working():
                yield
        finally:
            self.users -= 1
            if not self.users:
                self._unused.set()
            if not self.busy:
                self._room.changed()

    async def _let_in(self) -> None:
        try:
            async with asyncio.timeout(self.settings.load_timeout):
                await self._open.wait()
        except TimeoutError:
            raise Busy(
                "the model is making room for another one", code="model_loading", retry_after=_RETRY
            ) from None

    async def _ready(self) -> int:
        if self.loaded() and not self._switch.locked():
            return 0
        if self.engine.state == "failed" and self._failed_at is not None:
            left = self._failed_at + _COOL_DOWN - time.monotonic()
            if left > 0:
                reason = self.health.reason or "the last attempt to load the model failed"
                raise EngineFailed(reason, retry_after=left)
        began = time.perf_counter_ns()
        self._waiting += 1
        try:
            async with asyncio.timeout(self.settings.load_timeout):
                await asyncio.shield(self._load())
        except TimeoutError:
            raise Busy(self._still(), code="model_loading", retry_after=_RETRY) from None
        finally:
            self._waiting -= 1
            self._abandon()
        waited = time.perf_counter_ns() - began
        self.metrics.load_time.observe(waited * _NS)
        return waited

    def loaded(self) -> bool:
        """Whether the model is in memory and answers."""
        return self.engine.state == "ready"

    def _load(self) -> asyncio.Task[None]:
        """The one load that is going on, begun now if there is none."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.get_running_loop().create_task(self._load_now())
            self._loading.add_done_callback(self._tried)
        return self._loading

    def _tried(self, task: asyncio.Task[None]) -> None:
        """A load is over, well or not: from now on an engine without a model is `unloaded`, not `starting`."""
        self.health.asked()
        _retrieve(task)

    def _abandon(self) -> None:
        """Take a load out of the line for memory if nobody waits for it any more; one that began goes on."""
        task = self._loading
        if task is None or task.done() or self._waiting or self._wanted or self._entered:
            return
        task.cancel()
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        self._loading = None

    def _still(self) -> str:
        if not self._entered:
            return "the model waits for memory that other models use"
        percent = "" if self.health.percent is None else f" ({self.health.percent:.0f} % done)"
        return f"the model is still loading{percent}"

    async def _load_now(self) -> None:
        with self.metrics.working():
            async with self._switch:
                await self._bring()

    async def _bring(self) -> None:
        try:
            if isinstance(self.engine, Fetching):
                # A download may take hours, and whoever gave up waiting asks again when it is done.
                self._entered = True
                await self.engine.fetch()
                self._entered = False
                if not (self._waiting or self._wanted):
                    return
            if not self._true:
                self._estimate = await asyncio.to_thread(self._measure) or self.info.size
            async with self._room.admit(self):
                self._entered = True
                await self.engine.load()
                self._true = self.info.memory
                await self._warm()
        except EngineFailed as error:
            self._failed_at = time.monotonic()
            if self.engine.state == "ready":
                await self.engine.unload()
            if self.engine.state != "failed":
                self._lost(error.message)
                self.health.refused(error.message)
            raise
        finally:
            self._entered = False
            self._wanted = False
        self._failed_at = None

    async def _warm(self) -> None:
        """Have the preloaded messages evaluated, so that the cache has them for whoever begins with them."""
        if not self._preload:
            return
        messages = self._preload
        if messages[-1].role != "user":
            # Many templates render no conversation without a user; what follows the prefix does not matter.
            messages = (*messages, Message(role="user"))
        request = Generation(id="preload", model=self.name, prompt=ChatPrompt(messages=messages), max_tokens=1)
        try:
            async for _ in self.engine.generate(request):
                pass
        except ServiceError as error:
            logger.warning("the preloaded messages of %s are not cached: %s", self.name, error.message)

    def _lost(self, reason: str) -> None:
        """Who looks at the log only, as in the foreground, would wait for ever."""
        logger.warning("%s cannot be served: %s", self.name, reason)

    def _watch(self, state: State, text: str, _percent: float | None) -> None:
        if state == "failed":
            self._lost(text)
            self._room.left(self)
        elif state == "ready" and self._preload and not self._entered:
            # The engine started its child anew by itself, with an empty cache.
            task = asyncio.get_running_loop().create_task(self._warm())
            self._aside.add(task)
            task.add_done_callback(self._aside.discard)

    async def unload(self) -> None:
        """Give the model's memory back, as soon as no request uses it; a pinned one stays.

        One whose weights are still coming is not waited for: they come, and nothing is loaded.
        """
        if self.pinned or self._residence.leave_when_idle():
            return
        if isinstance(self.engine, Fetching) and self.engine.fetching:
            self._wanted = False
        else:
            await self._unload_now()

    async def _unload_now(self) -> None:
        async with self._switch:
            if not self.busy and self.engine.state == "ready":
                await self.engine.unload()
                self._residence.forget()
                self._room.left(self)

    async def evict(self) -> bool:
        """Make room for another model; False if a request came in between."""
        async with self._switch:
            if self.busy:
                return False
            await self.engine.unload()
            self._residence.forget()
            self._room.left(self)
            return True

    def drain(self, *, on: bool) -> None:
        """Let those who come wait (or not) while those who are here finish."""
        if on:
            self._open.clear()
        else:
            self._open.set()

    def keep_alive(self, seconds: float | None) -> None:
        """How long the model stays after the last request. None: as is; negative: forever; 0: not at all."""
        if seconds is not None and not self.pinned:
            self._residence.keep(seconds)

    def expires_at(self) -> datetime | None:
        """When the model will be unloaded if nobody asks anything more (UTC); None: never."""
        return self._residence.expires_at()

    async def close(self) -> None:
        """Stop timers, loads and the engine."""
        self._closed = True
        self._residence.close()
        tasks = self._aside | ({self._loading} if self._loading is not None else set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.engine.close()
        self._room.left(self)

    async def retire(self) -> None:
        """Close once nobody uses it: another model has its name now, or none."""
        while self.users:
            await self._unused.wait()
        await self.close()

    # --- requests ----------------------------------------------------------------------------------

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The engine's events, after limits, queue and load. Closing the iterator cancels the request.

        `Done.timings` says how long the request waited for the model and for a slot.
        """
        check(request, self.settings)
        began = time.perf_counter()
        outcome = "cancelled"
        try:
            async with (
                self._admitted(request.n) as (load, queue),
                contextlib.aclosing(self._measured(request, began)) as events,
            ):
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
        async with self._admitted(1) as (load, queue):
            answer = await self.engine.embed(request)
            self.metrics.used()
            current.get().prompt_tokens += answer.prompt_tokens
            timings = msgspec.structs.replace(answer.timings, load=load, queue=queue)
            return msgspec.structs.replace(answer, timings=timings)

    @contextlib.asynccontextmanager
    async def _admitted(self, choices: int) -> AsyncIterator[tuple[int, int]]:
        """A place, the model in memory, and a slot; nanoseconds waited for the model and for the slot.

        In this order: what waits for memory must not hold one of the slots that all models share.
        """
        with self.admission.join(choices) as place:
            async with self._in_flight():
                load = await self._ready()
                began = time.perf_counter_ns()
                await place.wait(self.settings.queue_timeout)
                with self._crowded(choices) as shared:
                    if shared is not None:
                        await shared.wait(self.settings.queue_timeout)
                    queue = time.perf_counter_ns() - began
                    self.metrics.queue_time.observe(queue * _NS)
                    yield load, queue

    def _crowded(self, choices: int) -> contextlib.AbstractContextManager[Place | None]:
        return contextlib.nullcontext() if self._crowd is None else self._crowd.join(choices)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waits has the error; if nobody does, the engine's state has it."""
    if not task.cancelled():
        task.exception()
