"""The one thing the service asks of an engine. Routes know no engine; engines know no dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol, runtime_checkable

from akashllm.server.domain import (
    Embedding,
    Embeddings,
    EngineStats,
    Event,
    Generation,
    ModelInfo,
    Speech,
    Transcription,
)

State = Literal["starting", "loading", "ready", "failed", "unloaded"]

Watcher = Callable[[State, str, float | None], None]
"""Called on every change: the state, a sentence about it, and percent loaded (0 to 100) or None."""


@runtime_checkable
class Engine(Protocol):
    """A model behind a queue of slots.

    Errors are `akashllm.errors.ServiceError`s: `BadRequest` and its children before the first event,
    `EngineDied` at any point after. An engine restarts its own child; `state` says where it is.
    """

    @property
    def name(self) -> str:
        """llamacpp, vllm, ollama, ..."""
        ...

    @property
    def state(self) -> State:
        """Where the engine is. `ready` means that a real token came out."""
        ...

    @property
    def info(self) -> ModelInfo:
        """The loaded model; before it is loaded, what can be told from its file."""
        ...

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change of state, from the event loop."""
        ...

    async def load(self) -> None:
        """Start the child and load the model; return when ready. Idempotent. Raises `EngineFailed`."""
        ...

    async def unload(self) -> None:
        """Give the memory back. The next `load` brings the model again."""
        ...

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """`Started`, then `Delta`s and one `Finish` a choice, then `Done`.

        Closing the iterator cancels the request: its slot is free within one step.
        """
        ...

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input."""
        ...

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`. `special` recognises control tokens written in it."""
        ...

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of `tokens`, control tokens included. Raises `BadRequest` for ids outside the vocabulary."""
        ...

    def stats(self) -> EngineStats:
        """What it is doing now; never blocks."""
        ...

    async def close(self) -> None:
        """Stop the child for good and leave no process behind."""
        ...


@runtime_checkable
class Transcriber(Engine, Protocol):
    """An engine that writes down what is said."""

    def transcribe(self, request: Transcription) -> AsyncIterator[Speech]:
        """`Heard`, then `Segment`s. Closing the iterator cancels the request at the next segment.

        `BadRequest` before the first event for sound that cannot be read, is too long, or is in a language
        the model does not know.
        """
        ...
