"""A real vLLM on the bundled model's numbers, served over HTTP from a thread, and reachable from any loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn

from akashllm.errors import ServiceError
from akashllm.server.app import create_app
from akashllm.server.domain import Embedding, Embeddings, EngineStats, Event, Generation, ModelInfo
from akashllm.server.engine import Engine, State, Watcher
from akashllm.server.engines.vllm.engine import VllmEngine
from akashllm.server.engines.vllm.options import Options
from akashllm.server.settings import Settings

SMALL: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
    "block_size": 32,
    "distributed_executor_backend": "uni",
    "max_num_seqs": 16,
}
"""What makes vLLM start quickly and stay small on a processor."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_CI_ENV": "1",
}


def engine(folder: Path, python: Path, *, slots: int = 16, **options: Any) -> VllmEngine:
    """An engine on the model in `folder`, computing in float32."""
    extra = SMALL | options.pop("extra", {})
    root = str(Path(__file__).resolve().parents[2])
    os.environ.update(ENVIRONMENT)
    return VllmEngine(
        folder,
        name="tiny:latest",
        slots=slots,
        options=Options(dtype="float32", extra=extra, **options),
        python=str(python),
        path=root,
    )


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.listening.set()


@contextlib.contextmanager
def serving(engine: Engine, settings: Settings) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """The root address of a service in a thread, and the loop the engine lives in, until the block ends."""
    config = uvicorn.Config(create_app(settings, engine), log_config=None, timeout_graceful_shutdown=5)
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            assert server.listening.wait(60)
            assert server.loop is not None
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server.loop
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


class Across:
    """An engine of another thread's loop, as an engine of this one."""

    def __init__(self, inner: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    @property
    def name(self) -> str:
        """Of the engine."""
        return self._inner.name

    @property
    def state(self) -> State:
        """Of the engine."""
        return self._inner.state

    @property
    def info(self) -> ModelInfo:
        """Of the engine."""
        return self._inner.info

    @property
    def pid(self) -> int | None:
        """Of its child."""
        found: int | None = getattr(self._inner, "pid", None)
        return found

    def watch(self, watcher: Watcher) -> None:
        """Not from here."""
        raise NotImplementedError

    async def load(self) -> None:
        """Wait until it is ready."""
        await self._there(self._inner.load())

    async def unload(self) -> None:
        """Not from here."""
        raise NotImplementedError

    close = unload

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The events, one after the other."""
        ours = asyncio.get_running_loop()
        events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()

        async def pump() -> None:
            inner = cast("AsyncGenerator[Event]", self._inner.generate(request))
            try:
                async with contextlib.aclosing(inner):
                    async for event in inner:
                        ours.call_soon_threadsafe(events.put_nowait, event)
                ours.call_soon_threadsafe(events.put_nowait, None)
            except ServiceError as error:
                ours.call_soon_threadsafe(events.put_nowait, error)

        future = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            future.cancel()

    async def embed(self, request: Embedding) -> Embeddings:
        """Vectors."""
        found: Embeddings = await self._there(self._inner.embed(request))
        return found

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids."""
        found: list[int] = await self._there(self._inner.tokenize(text, special=special, bos=bos))
        return found

    async def detokenize(self, tokens: list[int]) -> str:
        """Text."""
        found: str = await self._there(self._inner.detokenize(tokens))
        return found

    def stats(self) -> EngineStats:
        """Counts."""
        return self._inner.stats()

    async def _there(self, work: Any) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
