"""The models of the store as a library: what a Modelfile says becomes files, context and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from akashllm.errors import ModelNotFound
from akashllm.names import ModelName
from akashllm.server.building import Builder, Files
from akashllm.server.defaults import Defaults
from akashllm.server.domain import Message
from akashllm.server.library import Offer
from akashllm.server.models.stored import StoredModel


class Store(Protocol):
    """What is needed of a model store. Both methods block."""

    def get(self, name: ModelName) -> StoredModel:
        """The model of that name. Raises `ModelNotFound`."""
        ...

    def list(self) -> Sequence[StoredModel]:
        """Every model, the newest first."""
        ...


class Stock:
    """A store's models, offered as they are at the moment of asking."""

    def __init__(self, store: Store, builder: Builder) -> None:
        self._store = store
        self._builder = builder

    def find(self, name: ModelName) -> Offer | None:
        """The model of that name."""
        try:
            return self._offer(self._store.get(name))
        except ModelNotFound:
            return None

    def list(self) -> Sequence[Offer]:
        """Everything in the store."""
        return [self._offer(model) for model in self._store.list()]

    def _offer(self, model: StoredModel) -> Offer:
        return self._builder.offer(
            str(model.name),
            Files(
                weights=model.weights,
                adapters=model.adapters,
                projector=model.projectors[0] if model.projectors else None,
                template=model.go_template,
            ),
            context=_context(model.parameters),
            defaults=defaults(model),
            digest=model.digest,
            modified=model.modified,
        )


def defaults(model: StoredModel) -> Defaults:
    """What a Modelfile says about every request."""
    return Defaults(
        system=model.system,
        parameters=model.parameters,
        messages=tuple(Message(role=role, content=content) for role, content in model.messages),
    )


def _context(parameters: Mapping[str, Any]) -> int:
    """`PARAMETER num_ctx` says how the model is loaded, as in Ollama."""
    value = parameters.get("num_ctx", 0)
    return max(0, int(value)) if isinstance(value, int | float) and not isinstance(value, bool) else 0
