"""The child dies, hangs or cannot start: what is said, what goes on, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections import deque
from pathlib import Path

import psutil
import pytest

from akashllm.errors import EngineDied, EngineFailed
from akashllm.models import TINY
from akashllm.server.domain import Delta, Embedding
from akashllm.server.engine import Engine, State
from akashllm.server.engines import supervisor
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.health import Health
from tests.engine.ask import run, say, stream, until
from tests.engine.conftest import running

pytestmark = pytest.mark.engine


def gone(pid: int) -> bool:
    """Whether a process has ended, a zombie counting as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_is_an_engine() -> None:
    """The class has everything the protocol asks for, before anything is loaded."""
    engine = LlamaCppEngine(TINY, name="tiny:latest")
    assert isinstance(engine, Engine)
    assert (engine.name, engine.state) == ("llamacpp", "unloaded")
    assert engine.info.train_context == 2048
    assert engine.stats().running == 0
    await engine.close()


async def test_loading_is_told() -> None:
    """A watcher sees starting, loading with growing percentages, and ready at the end."""
    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=2, context=512)
    seen: list[tuple[State, float | None]] = []
    engine.watch(lambda state, _reason, percent: seen.append((state, percent)))
    await asyncio.gather(engine.load(), engine.load())
    states = [state for state, _ in seen]
    percents = [percent for state, percent in seen if state == "loading" and percent is not None]
    assert states[0] == "starting"
    assert states[-1] == "ready"
    assert percents == sorted(percents)
    assert (engine.info.context, engine.info.slots, engine.info.family) == (512, 2, "llama")
    assert set(engine.info.capabilities) >= {"completion", "tools", "insert", "thinking"}
    await engine.close()
    assert engine.state == "unloaded"


async def test_unload_and_load() -> None:
    """An unloaded engine has no process; a request brings the model again."""
    async with running(slots=2) as engine:
        pid = engine.pid
        assert pid is not None
        await engine.unload()
        assert gone(pid)
        assert (engine.state, engine.pid) == ("unloaded", None)
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"
        assert engine.pid not in {None, pid}


async def test_killed_while_streaming() -> None:
    """SIGKILL ends streams with an error; requests nobody has seen anything of, and new ones, are answered."""
    async with running(slots=2) as engine:
        open_streams = [stream(engine, say("Tell me a story.", ignore_eos=True, shift=True)) for _ in range(2)]
        for one in open_streams:
            while not isinstance(await anext(one), Delta):
                pass
        waiting = asyncio.create_task(run(engine, say("What is 7+8?")))
        embedding = asyncio.create_task(engine.embed(Embedding(id="e", model="tiny", inputs=("a",) * 200)))
        await until(lambda: engine.stats().waiting)
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for one in open_streams:
            with pytest.raises(EngineDied, match="SIGKILL"):
                async for _ in one:
                    pass
        assert (await waiting).text == "7 + 8 = 15"
        assert len((await embedding).vectors) == 200
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"
        assert engine.stats().restarts == 1
        assert gone(pid)


async def test_a_request_that_kills_twice_is_given_up() -> None:
    """A request is started over once, not for ever."""
    async with running(slots=2) as engine:
        request = asyncio.create_task(run(engine, say("Tell me a story.", ignore_eos=True, shift=True)))
        feed = None
        for _ in range(2):
            await until(lambda: engine.state == "ready" and engine.pid and engine._feeds)
            feed = next(iter(engine._feeds.values()))
            feed.delivered = False
            pid = engine.pid
            assert pid is not None
            os.kill(pid, signal.SIGSEGV)
            await until(lambda pid=pid: engine.pid != pid)  # type: ignore[misc]
        with pytest.raises(EngineDied, match="SIGSEGV"):
            await request


async def test_a_child_that_stands_still_is_killed() -> None:
    """A child that neither works nor answers is ended by the watchdog, and the next one works."""
    async with running(slots=2, watchdog=1.5) as engine:
        events = stream(engine, say("Tell me a story.", ignore_eos=True, shift=True))
        while not isinstance(await anext(events), Delta):
            pass
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineDied, match="did not answer"):
            async for _ in events:
                pass
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"


async def test_a_long_step_is_no_standstill() -> None:
    """A watchdog shorter than a prompt's evaluation does not bite while the child says it is working."""
    async with running(slots=2, watchdog=1.5) as engine:
        inputs = tuple("the " * 300 for _ in range(40))
        result = await engine.embed(Embedding(id="e", model="tiny", inputs=inputs))
        assert len(result.vectors) == 40
        assert engine.stats().restarts == 0


async def test_a_child_that_always_dies_is_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """After several quick ends the engine has failed, says why, and can be told to try again."""
    monkeypatch.setattr(supervisor, "BACK_OFF", (0.0, 0.0))
    async with running(slots=1) as engine:
        for _ in range(3):
            await until(lambda: engine.state == "ready")
            pid = engine.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: engine.pid != pid)  # type: ignore[misc]
        await until(lambda: engine.state == "failed")
        assert "3 times in a row" in engine.reason
        await engine.load()
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\0" * 4096, b"GGUF\x03\0\0\0" + b"\xff" * 4096])
async def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    """A broken file is refused with its name and a reason, not its path, at once and without trying again."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    engine = LlamaCppEngine(path, name="broken:latest")
    with pytest.raises(EngineFailed, match=r"broken\.gguf") as caught:
        await engine.load()
    assert "failed to load model" not in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert (engine.state, engine.stats().restarts, engine.pid) == ("failed", 0, None)
    assert Health(engine).public("broken")["fault"] == "order"
    shutil.copyfile(TINY, path)
    await engine.load()
    assert "fault" not in Health(engine).public("broken")
    await engine.close()


@pytest.fixture
def half_model(tmp_path: Path) -> Path:
    """The first half of the bundled model."""
    path = tmp_path / "half.gguf"
    path.write_bytes(Path(TINY).read_bytes()[:2_000_000])
    return path


async def test_a_truncated_model(half_model: Path, tmp_path: Path) -> None:
    """So is half a model, which is called incomplete; and a file that is not there."""
    reasons = {half_model: "incomplete", tmp_path / "absent.gguf": "no model file", tmp_path: "no model file"}
    for model, reason in reasons.items():
        engine = LlamaCppEngine(model, name="half:latest")
        with pytest.raises(EngineFailed, match=reason):
            await engine.load()
        await engine.close()


async def test_more_memory_than_there_is() -> None:
    """A cache beyond all reason is bounded by what the slots can use."""
    async with running(slots=4, cache=2_000_000_000) as engine:
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"
        assert engine.stats().kv_size in {0, 2 * 4 * 2048}


async def test_no_orphan_after_the_parent_is_killed() -> None:
    """SIGKILL of the service takes its child along."""
    code = (
        "import asyncio\n"
        "from akashllm.models import TINY\n"
        "from akashllm.server.engines.llamacpp.engine import LlamaCppEngine\n"
        "async def main():\n"
        "    engine = LlamaCppEngine(TINY, name='t')\n"
        "    await engine.load()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert not gone(child)
    parent.kill()
    await parent.communicate()
    await until(lambda: gone(child))


async def test_the_child_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our environment the child gets what it needs to run, no key, and nothing of Akash's."""
    monkeypatch.setenv("AKASHLLM_API_KEY", "canary-one")
    monkeypatch.setenv("AKASH_MNEMONIC", "canary-two")
    monkeypatch.setenv("HF_TOKEN", "canary-three")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    async with running(slots=1) as engine:
        environment = psutil.Process(engine.pid).environ()
        assert "canary" not in str(environment)
        assert environment["OMP_NUM_THREADS"] == "1"


async def test_a_talkative_child() -> None:
    """However much a child writes, the last lines are kept, cut, and no more."""
    lines = asyncio.StreamReader()
    lines.feed_data(b"x" * 1_000_000 + b"\n" + b"\xff\xfe\n" * 1000 + b"last")
    lines.feed_eof()
    kept: deque[str] = deque(maxlen=supervisor.LOG_LINES)
    await supervisor.pump(lines, kept)
    assert len(kept) == supervisor.LOG_LINES
    assert kept[-1] == "last"
    assert all(len(line) <= supervisor.LOG_WIDTH for line in kept)
