"""An engine whose weights may not be here yet: they are fetched first, and it is as it is from then on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from akashllm.errors import AkashllmError, DownloadFailed, EngineFailed, ServiceError, UsageError
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
from akashllm.server.engine import Engine, State, Transcriber, Watcher
from akashllm.server.engines.blame import ORDER
from akashllm.server.models.weights import Weights

_GIB = 1 << 30
_EVERY = 0.5
"""Seconds between two words about progress."""

_REFUSED = frozenset({401, 403, 404, 410, 451})
_ORDERED = frozenset({"disk_full", "disk_denied", "not_gguf", "no_such_model"})
"""HTTP statuses and codes of errors that say: this is not to be had, whoever asks."""


class FetchedEngine:
    """`build` makes the engine from the file or folder that `weights` is, once that is here.

    While it comes the state is `loading` and the sentence tells which file and how far; what cannot be fetched
    is `failed` with the reason, and the next `load` tries again with what has come so far. Weights that are
    here already are not asked about, so a start without a network works. `fault` is `order` after a failure
    that any machine would have with what was ordered: a name, a licence, a disk of that size.

    name    of the engine (llamacpp, vllm, ...);  info: what can be said of the model before its files can
    """

    def __init__(
        self, weights: Weights, build: Callable[[Path], Engine], *, name: str, info: ModelInfo
    ) -> None:
        self._weights = weights
        self._build = build
        self._name = name
        self._info = info
        self._inner: Engine | None = None
        self._state: State = "unloaded"
        self._watchers: list[Watcher] = []
        self._loading = asyncio.Lock()
        self._task: asyncio.Task[Path] | None = None
        self._told = 0.0
        self._closed = False
        self._fault = ""
        self._handed = False
        """Whether the state is the engine's own: from the first word it says."""
        here = weights.here()
        if here is not None:
            self._take(here)
            self._handed = True

    @property
    def name(self) -> str:
        """Of the engine that runs the model."""
        return self._name

    @property
    def state(self) -> State:
        """`loading` while the weights come; then the engine's own."""
        return self._inner.state if self._inner is not None and self._handed else self._state

    @property
    def fault(self) -> str:
        """Whose a failure is, where that is certain: `order`."""
        return str(getattr(self._inner, "fault", "")) if self._handed else self._fault

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._info if self._inner is None else self._inner.info

    @property
    def file(self) -> Path | None:
        """The model's file or folder, once it is here."""
        return self._weights.here()

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What the engine's child wrote last."""
        return tuple(getattr(self._inner, "log_lines", ()))

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change of state."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Fetch what is missing, then load it. Raises `EngineFailed` with the reason."""
        async with self._loading:
            if self._closed:
                raise EngineFailed("the service is stopping")
            engine = self._inner
            if engine is None or self._weights.here() is None:
                path = await self._fetch()
                engine = engine or self._made(path)
            try:
                await engine.load()
            finally:
                self._handed = True

    async def fetch(self) -> None:
        """Fetch what is missing and no more. Raises `EngineFailed` with the reason."""
        async with self._loading:
            if self._closed:
                raise EngineFailed("the service is stopping")
            if self._inner is None or self._weights.here() is None:
                path = await self._fetch()
                if self._inner is None:
                    self._made(path)
                self._change("unloaded", "")

    @property
    def fetching(self) -> bool:
        """Whether weights are coming now."""
        return self._task is not None

    def _made(self, path: Path) -> Engine:
        """The engine of weights that have just come. Raises `EngineFailed` where they are none of its."""
        try:
            return self._take(path)
        except AkashllmError as error:
            raise self._failed(error) from error

    def _failed(self, error: AkashllmError) -> EngineFailed:
        """Say so, and whose it is."""
        self._fault = ORDER if _ordered(error) else ""
        self._change("failed", f"{error.message}; {error.hint}" if error.hint else error.message)
        return EngineFailed(error.message, hint=error.hint)

    def _take(self, path: Path) -> Engine:
        engine = self._inner = self._build(path)
        engine.watch(self._relay)
        return engine

    async def _fetch(self) -> Path:
        shown = self._weights.shown
        self._fault = ""
        self._change("loading", f"looking for {shown}")
        self._task = asyncio.create_task(self._weights.fetch(self._progress), name=f"fetch {shown}")
        try:
            return await self._task
        except AkashllmError as error:
            raise self._failed(error) from error
        except asyncio.CancelledError:
            self._change("unloaded", "")
            current = asyncio.current_task()
            if self._closed and current is not None and not current.cancelling():
                raise EngineFailed("the service is stopping") from None
            raise
        except Exception:
            self._change("failed", f"fetching {shown} failed in an unforeseen way; the log says more")
            raise
        finally:
            self._task = None

    def _progress(self, file: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._told < _EVERY and done != total:
            return
        self._told = now
        size = f"{done / _GIB:.1f} of {total / _GIB:.1f} GiB" if total else f"{done / _GIB:.1f} GiB"
        if total and total < _GIB // 10:
            size = f"{done / (1 << 20):.1f} of {total / (1 << 20):.1f} MiB"
        name = file.rsplit("/", 1)[-1]
        if total and done == total:
            self._change("loading", f"verifying {name}: {size}", 100.0)
        else:
            self._change("loading", f"downloading {name}: {size}", 100.0 * done / total if total else None)

    def _relay(self, state: State, text: str, percent: float | None) -> None:
        self._handed = True
        self._tell(state, text, percent)

    def _change(self, state: State, text: str, percent: float | None = None) -> None:
        self._handed = False
        self._state = state
        self._tell(state, text, percent)

    def _tell(self, state: State, text: str, percent: float | None) -> None:
        for watcher in self._watchers:
            watcher(state, text, percent)

    async def unload(self) -> None:
        """Give the memory back; the files stay."""
        if self._inner is not None:
            await self._inner.unload()

    async def close(self) -> None:
        """Stop fetching (what has come is kept for the next start) and stop the engine for good."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._inner is not None:
            await self._inner.close()

    def _need(self) -> Engine:
        if self._inner is None:
            raise EngineFailed("the model's weights are not here yet")
        return self._inner

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The engine's events."""
        return self._need().generate(request)

    async def embed(self, request: Embedding) -> Embeddings:
        """The engine's vectors."""
        return await self._need().embed(request)

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`."""
        return await self._need().tokenize(text, special=special, bos=bos)

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of `tokens`."""
        return await self._need().detokenize(tokens)

    def stats(self) -> EngineStats:
        """What it is doing now."""
        return EngineStats() if self._inner is None else self._inner.stats()


class FetchedTranscriber(FetchedEngine):
    """The same for an engine that writes down what is said: a `Transcriber`."""

    def transcribe(self, request: Transcription) -> AsyncIterator[Speech]:
        """The engine's events."""
        engine = self._need()
        if not isinstance(engine, Transcriber):
            raise EngineFailed("this model does not transcribe speech")
        return engine.transcribe(request)


def _ordered(error: AkashllmError) -> bool:
    """Whether the same would come of it on any other machine."""
    if isinstance(error, DownloadFailed) and error.status in _REFUSED:
        return True
    return isinstance(error, UsageError) or (isinstance(error, ServiceError) and error.code in _ORDERED)
