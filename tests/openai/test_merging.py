"""Several generations of one request."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from akashllm.errors import EngineDied
from akashllm.server.api.merging import merge
from akashllm.server.domain import Delta, Finish, Generation, TextPrompt
from akashllm.testing.engine import Reply, ScriptedEngine


def generations(*texts: str) -> list[Generation]:
    """One generation a text."""
    return [
        Generation(id=str(position), model="tiny:latest", prompt=TextPrompt(text=text))
        for position, text in enumerate(texts)
    ]


async def texts_of(engine: ScriptedEngine, *texts: str, at_once: int) -> list[str]:
    """What each generation said."""
    found = [""] * len(texts)
    async for position, event in merge(generations(*texts), engine.generate, at_once=at_once):
        if isinstance(event, Delta):
            found[position] += event.text
    return found


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_every_generation_is_whole(count: int, at_once: int) -> None:
    """Nothing is lost or mixed up, however many run at a time."""
    engine = ScriptedEngine()
    texts = [f"one two three {position}" for position in range(count)]
    assert await texts_of(engine, *texts, at_once=at_once) == [f"echo: {text}" for text in texts]
    assert engine.cancelled == []


async def test_at_most_so_many_run() -> None:
    """A long list of prompts does not take every place in the queue."""
    gate = asyncio.Event()
    engine = ScriptedEngine(lambda request: Reply("a b", gate=gate, gate_after=1))
    seen = []
    events = merge(generations(*"abcde"), engine.generate, at_once=2)
    async with contextlib.aclosing(events):
        async for position, event in events:
            if isinstance(event, Delta) and event.text == "a":
                seen.append(position)
                if len(seen) == 2:
                    assert engine.stats().running == 2
                    gate.set()
            assert engine.stats().running <= 2
    assert seen == [0, 1, 2, 3, 4]


async def test_one_failure_ends_all() -> None:
    """An error in one generation is the request's, and the others are cancelled."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"dies": Reply("a b", die_after=1), "waits": Reply("a b", gate=gate, gate_after=1)})
    with pytest.raises(EngineDied):
        await texts_of(engine, "waits", "dies", "waits", at_once=3)
    await engine.idle()
    assert sorted(engine.cancelled) == ["0", "1", "2"]


async def test_closing_cancels_all() -> None:
    """A client that goes away frees every slot."""
    gate = asyncio.Event()
    engine = ScriptedEngine(lambda request: Reply("a b", gate=gate, gate_after=1))
    events = merge(generations("x", "y"), engine.generate, at_once=2)
    await anext(events)
    await events.aclose()
    assert engine.stats().running == 0


async def test_a_slow_reader_slows_the_engine() -> None:
    """The events that wait for the reader are few."""
    engine = ScriptedEngine(lambda request: Reply(" ".join(["word"] * 1000)))
    events = merge(generations("x", "y"), engine.generate, at_once=2)
    async with contextlib.aclosing(events):
        await anext(events)
        for _ in range(200):
            await asyncio.sleep(0)
        assert engine.stats().completion_tokens < 50


async def test_order_within_a_generation() -> None:
    """The events of one generation keep their order: the finish comes last but one."""
    engine = ScriptedEngine()
    kinds: dict[int, list[str]] = {0: [], 1: []}
    async for position, event in merge(generations("x y", "z"), engine.generate, at_once=2):
        kinds[position].append(type(event).__name__)
    for names in kinds.values():
        assert names[0] == "Started"
        assert names[-2:] == [Finish.__name__, "Done"]
