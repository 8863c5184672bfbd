"""Weights by a name of Ollama's library: pulled into the model store, and served from there."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from akashllm.errors import ModelNotFound, StoreFailed
from akashllm.names import ModelName
from akashllm.server.models.pull import pull
from akashllm.server.models.registry import Registries
from akashllm.server.models.store import ModelStore
from akashllm.server.models.weights import Told


class PulledWeights:
    """The weights of a model of the store, pulled first if the store does not have it."""

    def __init__(self, store: ModelStore, registries: Registries, name: ModelName) -> None:
        self._store = store
        self._registries = registries
        self._name = name

    @property
    def shown(self) -> str:
        """The model's name."""
        return str(self._name)

    def here(self) -> Path | None:
        """Its GGUF file, if the store has the model whole. A damaged one is pulled again."""
        try:
            return self._store.get(self._name).weights
        except (ModelNotFound, StoreFailed):
            return None

    async def fetch(self, told: Told) -> Path:
        """Pull it. Raises `RegistryFailed`, `DownloadFailed` and `StoreFailed`, in words."""
        async with aclosing(pull(self._store, self._registries, self._name)) as steps:
            async for step in steps:
                if step.total:
                    told(str(self._name), step.completed, step.total)
        return (await asyncio.to_thread(self._store.get, self._name)).weights
