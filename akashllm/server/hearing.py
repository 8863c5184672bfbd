"""Between the audio routes and the engine that transcribes: its names, one place in the queue a recording."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import PurePosixPath

from akashllm.errors import BadName, Busy, ModelNotFound, ServiceError
from akashllm.names import ModelName
from akashllm.server.admission import Admission
from akashllm.server.domain import Speech, Transcription
from akashllm.server.engine import Transcriber
from akashllm.server.metrics import Metrics
from akashllm.server.settings import PREFIX, Settings

USUAL = "whisper-1"
"""What OpenAI calls the model; clients that were written for it name it."""

DEPLOY = (
    f"set {PREFIX}TRANSCRIBE_MODEL to a Whisper in CTranslate2's format beside the model, or serve one alone "
    f"with {PREFIX}ENGINE=whisper, or with {PREFIX}ENGINE=vllm and {PREFIX}TASK=transcribe"
)


class Hearing:
    """A transcribing engine with the names it answers to. It may be the service's only engine, or a second one.

    `own`: nobody else loads and closes it.
    """

    def __init__(
        self, engine: Transcriber, settings: Settings, name: str, *, metrics: Metrics, own: bool
    ) -> None:
        self.engine = engine
        self.name = name
        self._settings = settings
        self._own = own
        self._metrics = metrics
        self._any = "*" in settings.model_aliases
        self._names = {_canonical(name), _canonical(USUAL)}
        if not own:
            self._names |= {_canonical(alias) for alias in settings.model_aliases if alias != "*"}
        self._admission = Admission(engine.info.slots, settings.queue)
        self._loading: asyncio.Task[None] | None = None

    def resolve(self, typed: str) -> str:
        """The model's name, for what a client typed. Raises `ModelNotFound`."""
        if self._any or _canonical(typed) in self._names:
            return self.name
        raise ModelNotFound(
            f"model '{typed[:100]}' not found",
            param="model",
            hint=f"speech is transcribed by {self.name}, also known as {USUAL}",
        )

    def start(self) -> None:
        """Begin to load an engine of its own, without waiting for it."""
        if self._own:
            self._load()

    async def close(self) -> None:
        """Stop an engine of its own."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._own:
            await self.engine.close()

    async def transcribe(self, request: Transcription) -> AsyncGenerator[Speech]:
        """The engine's events, after the queue and the load. Closing the iterator cancels the request."""
        outcome = "cancelled"
        try:
            with self._admission.join(1) as place, self._metrics.working():
                await self._ready()
                await place.wait(self._settings.queue_timeout)
                events = self.engine.transcribe(request)
                async with contextlib.aclosing(_generator(events)) as open_events:
                    async for event in open_events:
                        yield event
            outcome = "done"
        except ServiceError as error:
            outcome = error.code or type(error).__name__
            raise
        finally:
            self._metrics.outcome(outcome)

    async def _ready(self) -> None:
        if self.engine.state == "ready":
            return
        try:
            async with asyncio.timeout(self._settings.load_timeout):
                await asyncio.shield(self._load())
        except TimeoutError:
            raise Busy("the model is still loading", code="model_loading", retry_after=15) from None

    def _load(self) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            self._loading = asyncio.get_running_loop().create_task(
                self.engine.load(), name="load the transcriber"
            )
            self._loading.add_done_callback(_retrieve)
        return self._loading


async def _generator(events: AsyncIterator[Speech]) -> AsyncGenerator[Speech]:
    """An iterator as a generator, which can be closed."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def served_name(settings: Settings) -> str:
    """What the transcribing model is called: as told, or as its folder or repository is."""
    model = settings.transcribe_model
    for candidate in (settings.transcribe_name, PurePosixPath(model).name, model):
        with contextlib.suppress(BadName):
            if candidate:
                return str(ModelName.parse(candidate))
    return "whisper:latest"


def _canonical(name: str) -> str:
    """A name as names are compared; one that is none is compared as it is."""
    try:
        return ModelName.parse(name).canonical
    except BadName:
        return name


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waits has the error; if nobody does, the engine's state has it."""
    if not task.cancelled():
        task.exception()
