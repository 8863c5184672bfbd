"""An engine whose child writes down what is said: the service's side, the same for every such child."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from akashllm.errors import EngineDied, ServiceError, Unsupported
from akashllm.server.domain import (
    Embedding,
    Embeddings,
    EngineStats,
    Event,
    Generation,
    Heard,
    ModelInfo,
    Segment,
    Speech,
    Transcription,
)
from akashllm.server.engines import frames
from akashllm.server.engines.framed import FramedEngine
from akashllm.server.engines.frames import Answer, Cancel, Fault, Load, Report, Step, Transcribe, Transcribed


class _Recording:
    """One request: what has been heard of it so far."""

    def __init__(self, request: Transcription) -> None:
        self.request = request
        self.events: asyncio.Queue[Speech | ServiceError | None] = asyncio.Queue()
        self.delivered = False
        self.retried = False
        self.over = False

    def end(self, error: ServiceError | None) -> None:
        """No more events; an error if it did not come to its end."""
        self.over = True
        self.events.put_nowait(error)


class ListeningEngine(FramedEngine):
    """A `Transcriber` over a child. It generates no text and embeds none."""

    def __init__(
        self,
        name: str,
        module: str,
        order: Load,
        info: ModelInfo,
        *,
        watchdog: float = 60.0,
        python: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, module, order, info, watchdog=watchdog, python=python, environment=environment)
        self._recordings: dict[int, _Recording] = {}

    async def transcribe(self, request: Transcription) -> AsyncIterator[Speech]:
        """`Heard`, then segments; closing the iterator cancels at the end of a segment."""
        await self.load()
        key = next(self._keys)
        recording = _Recording(request)
        self._send(Transcribe(key=key, request=request))
        self._recordings[key] = recording
        try:
            while True:
                event = await recording.events.get()
                if event is None:
                    return
                if isinstance(event, ServiceError):
                    raise event
                recording.delivered = True
                yield event
        finally:
            del self._recordings[key]
            if not recording.over:
                self._supervisor.send(Cancel(key=key))

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Refused: the model writes down what it hears, and nothing else."""
        del request
        raise _deaf()

    async def embed(self, request: Embedding) -> Embeddings:
        """Refused."""
        del request
        raise _deaf()

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Refused."""
        del text, special, bos
        raise _deaf()

    async def detokenize(self, tokens: list[int]) -> str:
        """Refused."""
        del tokens
        raise _deaf()

    def stats(self) -> EngineStats:
        """What does not run waits in the child."""
        count, slots = len(self._recordings), self.info.slots
        running = min(slots, count)
        return EngineStats(
            running=running, waiting=count - running, slots=slots, restarts=self._supervisor.restarts
        )

    # --- the supervisor's listener -------------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """Hand out what was heard."""
        if isinstance(report, Step):
            for answer in report.answers:
                self._hear(answer)
        else:
            super().report(report)

    def ready(self) -> None:
        """Send again what the last child had said nothing of."""
        for key, recording in self._recordings.items():
            if not recording.over:
                self._supervisor.send(Transcribe(key=key, request=recording.request))

    def died(self, words: str) -> None:
        """End what it was saying; the rest waits for the next child."""
        for recording in self._open():
            if recording.delivered or recording.retried:
                recording.end(EngineDied(f"the engine stopped while this request was running: {words}"))
            else:
                recording.retried = True

    def gone(self, words: str) -> None:
        """End everything."""
        for recording in self._open():
            recording.end(EngineDied(f"{words} while this request was running", hint="send it again"))

    def _open(self) -> list[_Recording]:
        return [recording for recording in self._recordings.values() if not recording.over]

    def _hear(self, answer: Answer) -> None:
        recording = self._recordings.get(answer.key)
        if recording is None or recording.over:
            return
        event = answer.event
        if isinstance(event, Fault):
            recording.end(frames.revive(event))
        elif isinstance(event, Transcribed):
            recording.end(None)
        elif isinstance(event, Heard | Segment):
            recording.events.put_nowait(event)


def _deaf() -> Unsupported:
    return Unsupported(
        "this model transcribes speech and does nothing else",
        hint="send a recording to /v1/audio/transcriptions",
        param="model",
    )
