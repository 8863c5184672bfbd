"""Models without weights: a library of scripted engines, and a runtime over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from akashllm.names import ModelName
from akashllm.server.domain import Delta, Event, Generation, ModelInfo
from akashllm.server.library import Measured, Offer
from akashllm.server.room import Room
from akashllm.server.runtime import Runtime
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, Script, ScriptedEngine

INFO = ScriptedEngine().info


def sized(name: str, memory: int) -> ModelInfo:
    """A model that takes so many bytes once it is loaded."""
    return msgspec.structs.replace(INFO, name=name, size=memory, memory=memory)


@dataclass
class Shelf:
    """A library whose models a test puts there and takes away. `engines` has each engine that was built."""

    script: Script = field(default_factory=dict)
    manual: bool = False
    offers: dict[ModelName, Offer] = field(default_factory=dict)
    engines: dict[str, list[ScriptedEngine]] = field(default_factory=dict)

    def put(self, name: str, memory: int = 10, *, truth: int | None = None, **said: Any) -> Offer:
        """Put a model there, or another in its place. `truth` is what it really takes."""

        def build() -> ScriptedEngine:
            engine = ScriptedEngine(
                self.script, info=sized(name, memory if truth is None else truth), manual=self.manual
            )
            engine._state = "unloaded"
            self.engines.setdefault(name, []).append(engine)
            return engine

        full = str(ModelName.parse(name))
        values: dict[str, Any] = {"key": full, "measure": lambda: Measured(memory, 2048), "digest": "a" * 64}
        offer = Offer(name=full, build=build, **(values | said))
        self.offers[ModelName.parse(name)] = offer
        return offer

    def take(self, name: str) -> None:
        """Take a model away."""
        del self.offers[ModelName.parse(name)]

    def find(self, name: ModelName) -> Offer | None:
        """The model of that name."""
        return self.offers.get(name)

    def list(self) -> Sequence[Offer]:
        """All of them."""
        return list(self.offers.values())

    def engine(self, name: str) -> ScriptedEngine:
        """The last engine built for a name."""
        return self.engines[name][-1]


@asynccontextmanager
async def fleet(
    shelf: Shelf,
    *,
    budget: int = 0,
    most: int = 0,
    strict: bool = True,
    primary: ScriptedEngine | None = None,
    start: bool = False,
    runtime: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Runtime]:
    """A runtime whose deployed model, `tiny`, takes 10 bytes; closed whatever happens."""
    engine = primary or ScriptedEngine(info=sized("tiny", 10))
    found = Runtime(
        Settings(**settings),
        engine,
        libraries=[shelf],
        room=Room(budget, most, strict=strict),
        **(runtime or {}),
    )
    try:
        if start:
            found.start()
        yield found
    finally:
        async with asyncio.timeout(20):
            await found.close()


async def ask(found: Runtime, model: str, text: str = "x", **changes: Any) -> str:
    """The answer of a model to one message."""
    events = [event async for event in found.generate(request(model, text, **changes))]
    return said(events)


def request(model: str, text: str = "x", **changes: Any) -> Generation:
    """One message to a model."""
    from akashllm.testing.engine import chat

    return msgspec.structs.replace(chat(text, model=model), **changes)


def said(events: Sequence[Event]) -> str:
    """The text of all deltas."""
    return "".join(event.text for event in events if isinstance(event, Delta))


def loaded(found: Runtime) -> set[str]:
    """Names of the models that are in memory, without their tags."""
    return {resident.name.partition(":")[0] for resident in found.residents() if resident.loaded()}


__all__ = ["Reply", "Shelf", "ask", "fleet", "loaded", "replace", "request", "said", "sized"]
