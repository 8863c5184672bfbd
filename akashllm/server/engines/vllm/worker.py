"""A node that lends its GPUs: no answers come from here, vLLM on the head works through it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator

from akashllm.errors import BadRequest
from akashllm.server.domain import Embedding, Embeddings, EngineStats, Event, Generation, ModelInfo
from akashllm.server.engine import State, Watcher
from akashllm.server.engines.vllm import cluster

logger = logging.getLogger(__name__)

_POLL = 1.0
_POLITE = 30.0
"""Seconds Ray's node may take to end by itself."""


class WorkerNode:
    """Joins the Ray cluster of `head` (`host:port`), and joins again when the head has gone and come back.

    `ready` means that Ray's node runs here; whether the head has taken it, the head knows. The weights are in
    the same place as on the head: vLLM's workers read them from this node's own volume.
    """

    def __init__(self, head: str, *, name: str, gpus: int, python: str, path: str, key: str | None) -> None:
        self._head = head
        self._gpus = gpus
        self._python = python
        self._environment = {**os.environ, **cluster.environment(key), **({"PYTHONPATH": path} if path else {})}
        self._info = ModelInfo(name=name, format="safetensors", capabilities=("completion",))
        self._state: State = "unloaded"
        self._watchers: list[Watcher] = []
        self._task: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        """vllm: it is that engine's node."""
        return "vllm"

    @property
    def state(self) -> State:
        """`loading` until Ray's node runs, then `ready`."""
        return self._state

    @property
    def info(self) -> ModelInfo:
        """The model's name; the rest is the head's to tell."""
        return self._info

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change of state."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Join; return when Ray's node runs."""
        if self._task is None:
            self._say("loading", f"waiting for the head at {self._head}")
            self._task = asyncio.create_task(self._belong())
        joined = asyncio.create_task(self._joined.wait())
        try:
            await asyncio.wait({joined, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
        if self._task.done():
            await self._task

    async def unload(self) -> None:
        """Stay: the head decides when the model goes."""

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Raises `BadRequest`: the head answers."""
        del request
        raise self._refusal()

    async def embed(self, request: Embedding) -> Embeddings:
        """Raises `BadRequest`."""
        del request
        raise self._refusal()

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Raises `BadRequest`."""
        del text, special, bos
        raise self._refusal()

    async def detokenize(self, tokens: list[int]) -> str:
        """Raises `BadRequest`."""
        del tokens
        raise self._refusal()

    def stats(self) -> EngineStats:
        """Nothing runs for clients of this node."""
        return EngineStats()

    async def close(self) -> None:
        """Leave the cluster."""
        self._closed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._state = "unloaded"

    async def _belong(self) -> None:
        host, _, port = self._head.rpartition(":")
        address = cluster.own_address()
        command = cluster.worker_command(self._python, self._head, address, self._gpus)
        while True:
            await asyncio.to_thread(self._await_head, host, int(port))
            node = await asyncio.create_subprocess_exec(
                *command, env={**self._environment, "VLLM_HOST_IP": address}
            )
            try:
                self._joined.set()
                self._say("ready", f"works for the head at {self._head} with {self._gpus} GPUs")
                status = await node.wait()
            finally:
                await _end(node)
            self._joined.clear()
            self._say("loading", f"Ray ended with status {status}: joining the head at {self._head} again")
            await asyncio.sleep(_POLL)

    def _await_head(self, host: str, port: int) -> None:
        while not (self._closed.is_set() or cluster.reachable(host, port)):
            self._closed.wait(_POLL)

    def _say(self, state: State, sentence: str) -> None:
        self._state = state
        logger.info(sentence)
        for watcher in self._watchers:
            watcher(state, sentence, None)

    def _refusal(self) -> BadRequest:
        return BadRequest("this node only lends its GPUs; ask the service that the deployment's URL leads to")


async def _end(node: asyncio.subprocess.Process) -> None:
    """Let Ray's node leave in order, and kill it if it does not."""
    if node.returncode is not None:
        return
    node.terminate()
    try:
        async with asyncio.timeout(_POLITE):
            await node.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            node.kill()
        await node.wait()
