"""An engine that is ended, or cannot be begun, while somebody waits for it: nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from akashllm.errors import EngineDied, EngineFailed
from akashllm.models import TINY
from akashllm.server.domain import Embedding
from akashllm.server.engines import supervisor
from akashllm.server.engines.vllm.engine import VllmEngine
from tests.engine.ask import run, say, until
from tests.engine.conftest import running

pytestmark = pytest.mark.engine


async def test_unloading_ends_who_waits_for_a_reply() -> None:
    """An embedding that is under way when the engine is ended ends too, and starts no other child."""
    async with running(slots=2) as engine:
        embedding = asyncio.create_task(engine.embed(Embedding(id="e", model="tiny", inputs=("a b",) * 2000)))
        await until(lambda: engine._replies)
        await engine.unload()
        async with asyncio.timeout(10):
            with pytest.raises(EngineDied, match="was stopped"):
                await embedding
        assert (engine.state, engine.pid) == ("unloaded", None)


async def test_unloading_ends_who_waits_for_the_next_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that a child's death left waiting ends when the engine does, however long the pause."""
    monkeypatch.setattr(supervisor, "BACK_OFF", (600.0,))
    async with running(slots=2) as engine:
        story = say("Tell me a story.", ignore_eos=True, shift=True)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(run(engine, story))
        await until(lambda: engine._feeds)
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: engine.state == "starting")
        assert not waiting.done()
        await engine.unload()
        async with asyncio.timeout(10):
            with pytest.raises(EngineDied, match="was stopped"):
                await waiting


async def test_who_comes_while_the_child_leaves_gets_the_next_one() -> None:
    """A request that arrives between the order to leave and its end is answered by a new child."""
    async with running(slots=2) as engine:
        before = engine.pid
        assert before is not None
        os.kill(before, signal.SIGSTOP)
        leaving = asyncio.create_task(engine.unload())
        await asyncio.sleep(0)
        asked = asyncio.create_task(run(engine, say("What is 7+8?")))
        await asyncio.sleep(0)
        os.kill(before, signal.SIGCONT)
        await leaving
        async with asyncio.timeout(30):
            assert (await asked).text == "7 + 8 = 15"
        assert engine.pid not in {None, before}
        assert engine.state == "ready"


async def test_ending_twice_at_once() -> None:
    """Two who end the engine at the same time both see it ended, and it can begin again."""
    async with running(slots=2) as engine:
        await asyncio.gather(engine.unload(), engine.unload(), engine.unload())
        assert (engine.state, engine.pid) == ("unloaded", None)
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"


async def test_ending_while_it_loads() -> None:
    """Whoever waits for a model hears that the engine was stopped, and no child is left."""
    async with running(slots=2) as engine:
        await engine.unload()
        loading = asyncio.create_task(engine.load())
        await until(lambda: engine.pid)
        await engine.unload()
        async with asyncio.timeout(10):
            with pytest.raises(EngineFailed, match="was stopped"):
                await loading
        assert (engine.state, engine.pid) == ("unloaded", None)


@pytest.mark.parametrize("python", ["/nowhere/python3", os.devnull])
async def test_an_interpreter_that_cannot_be_started(python: str) -> None:
    """A child that cannot even be started is a failure with its cause, not a wait without end."""
    engine = VllmEngine(Path(TINY).parent, name="tiny:latest", python=python)
    async with asyncio.timeout(20):
        with pytest.raises(EngineFailed, match="could not be started"):
            await engine.load()
    assert (engine.state, engine.stats().restarts) == ("failed", 0)
    await engine.close()
