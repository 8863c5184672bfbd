"""An engine whose child writes down what is said: the service's side, the same for every such child."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from akashllm.errors import Unsupported
from akashllm.server.domain import (
    Embedding,
    Embeddings,
    Event,
    Generation,
    Heard,
    Segment,
    Speech,
    Transcription,
)
from akashllm.server.engines.feeds import Feed
from akashllm.server.engines.framed import FramedEngine
from akashllm.server.engines.frames import Told, Transcribe, Transcribed


class ListeningEngine(FramedEngine):
    """A `Transcriber` over a child. It generates no text and embeds none."""

    async def transcribe(self, request: Transcription) -> AsyncIterator[Speech]:
        """`Heard`, then segments; closing the iterator cancels at the end of a segment."""
        await self.load()
        feed: Feed[Speech] = Feed(Transcribe(key=next(self._keys), request=request))
        self._enter(feed)
        try:
            while (event := await feed.next()) is not None:
                yield event
        finally:
            self._leave(feed)

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

    def _take(self, feed: Feed[Any], event: Told) -> None:
        """Take what was heard."""
        if isinstance(event, Transcribed):
            feed.end()
        elif isinstance(event, Heard | Segment):
            feed.put(event)


def _deaf() -> Unsupported:
    return Unsupported(
        "this model transcribes speech and does nothing else",
        hint="send a recording to /v1/audio/transcriptions",
        param="model",
    )
