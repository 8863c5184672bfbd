"""Ollama as a child: started, fed with a model, watched, restarted and ended. Stand-ins play its program."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import ollama
import psutil
import pytest

from akashllm.errors import EngineDied, EngineFailed
from akashllm.server.engine import Engine, State
from akashllm.server.engines.ollama import engine as module
from akashllm.server.engines.ollama.engine import OllamaEngine
from akashllm.server.health import Health
from akashllm.server.settings import Settings
from akashllm.smoke import run as smoke
from tests.ollama.conftest import serving
from tests.upstream.ask import run, say

PULLING = [
    {"status": "pulling manifest"},
    {"status": "pulling aaaaaaaaaaaa", "digest": "sha256:a", "total": 100},
    {"status": "pulling aaaaaaaaaaaa", "digest": "sha256:a", "total": 100, "completed": 50},
    {"status": "pulling aaaaaaaaaaaa", "digest": "sha256:a", "total": 100, "completed": 100},
    {"status": "pulling bbbbbbbbbbbb", "digest": "sha256:b", "total": 100, "completed": 100},
    {"status": "verifying sha256 digest"},
]
STAND_IN = Path(__file__).with_name("stand_in.py")
DONE = {"status": "success"}


def program(folder: Path, target: str) -> str:
    """An executable that runs a Python program, as `ollama serve` would be run."""
    path = folder / "ollama"
    path.write_text(f"#!/bin/sh\n{target}\n")
    path.chmod(0o755)
    return str(path)


class Stage:
    """A folder with a stand-in and its plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binary = program(folder, f'exec "{sys.executable}" "{STAND_IN}" "$@"')

    def plan(self, **plan: Any) -> None:
        """What the stand-in will do."""
        (self.folder / "plan.json").write_text(json.dumps(plan))

    @property
    def seen(self) -> dict[str, Any]:
        """What the last stand-in saw."""
        found: dict[str, Any] = json.loads((self.folder / "seen.json").read_text())
        return found

    @contextlib.asynccontextmanager
    async def engine(self, model: str = "m:1b", **options: Any) -> AsyncIterator[OllamaEngine]:
        """An engine that is closed whatever happens."""
        engine = OllamaEngine(
            model, name="m:1b", binary=self.binary, models=str(self.folder), slots=3, **options
        )
        try:
            yield engine
        finally:
            await engine.close()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """An empty stage."""
    return Stage(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses before a restart."""
    monkeypatch.setattr(module, "BACK_OFF", (0.0, 0.0))


def gone(pid: int) -> bool:
    """Whether a process has ended, a zombie counting as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_gone(*pids: int) -> None:
    """Wait until processes have ended."""
    async with asyncio.timeout(10):
        while not all(map(gone, pids)):  # noqa: ASYNC110 - other processes have no events
            await asyncio.sleep(0.01)


async def until(engine: OllamaEngine, state: State) -> None:
    """Wait until the engine is in that state."""
    changed = asyncio.Event()
    engine.watch(lambda *_: changed.set())
    async with asyncio.timeout(20):
        while engine.state != state:
            changed.clear()
            await changed.wait()


async def test_is_an_engine(stage: Stage) -> None:
    """It has everything the protocol asks for, before anything runs."""
    async with stage.engine() as engine:
        assert isinstance(engine, Engine)
        assert (engine.name, engine.state, engine.pid) == ("ollama", "unloaded", None)


async def test_the_model_is_pulled_with_progress(stage: Stage) -> None:
    """A model that is not there is pulled; how far that is shows in the state, and never goes back."""
    stage.plan(pulls=[[*PULLING, DONE]])
    async with stage.engine() as engine:
        seen: list[tuple[State, str, float | None]] = []
        engine.watch(lambda *change: seen.append(change))
        await engine.load()
        assert (await run(engine, say())).text == "Hello"
    percents = [percent for _, reason, percent in seen if "pulling" in reason and percent is not None]
    assert percents == sorted(percents)
    assert {0.0, 50.0, 100.0} <= set(percents)
    assert [seen[0][0], seen[-1][0]] == ["starting", "unloaded"]
    assert any(reason.startswith("pulling m:1b") for _, reason, _ in seen)


async def test_a_model_that_is_there_is_not_pulled(stage: Stage) -> None:
    """A model on the volume is used without asking any registry."""
    stage.plan(models=["m:1b"], pulls=[[{"error": "no network"}]])
    async with stage.engine() as engine:
        await engine.load()
        assert engine.state == "ready"


async def test_a_pull_that_cannot_succeed_fails_with_the_reason(stage: Stage) -> None:
    """A name that no registry has is told, nothing is tried again by itself, and the program stays up."""
    stage.plan(pulls=[[{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]])
    async with stage.engine() as engine:
        with pytest.raises(
            EngineFailed, match="m:1b could not be pulled: pull model manifest: file does not exist"
        ):
            await engine.load()
        assert engine.state == "failed"
        assert Health(engine).public("m")["fault"] == "order"
        assert engine.pid is not None
        with pytest.raises(EngineFailed, match="could not be pulled"):
            await engine.load()


async def test_a_pull_that_breaks_off_is_tried_again(stage: Stage) -> None:
    """A lost connection in the middle of a pull is no end: the next try goes on."""
    stage.plan(pulls=[[*PULLING[:3], {"error": "max retries exceeded: unexpected EOF"}], PULLING[:2], [DONE]])
    async with stage.engine() as engine:
        await engine.load()
        assert engine.state == "ready"


async def test_what_ollama_is_started_with(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback, the volume, our keep-alive and sizes; its own settings pass, no key of ours does."""
    monkeypatch.setenv("AKASHLLM_API_KEY", "canary-one")
    monkeypatch.setenv("AKASH_MNEMONIC", "canary-two")
    monkeypatch.setenv("OLLAMA_API_KEY", "canary-three")
    monkeypatch.setenv("OLLAMA_FLASH_ATTENTION", "1")
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0")
    stage.plan(models=["m:1b"])
    async with stage.engine(context=4096) as engine:
        await engine.load()
    environ = stage.seen["environ"]
    assert "canary" not in str(environ)
    assert environ["OLLAMA_HOST"].startswith("127.0.0.1:")
    assert environ["OLLAMA_MODELS"] == str(stage.folder)
    assert (environ["OLLAMA_KEEP_ALIVE"], environ["OLLAMA_CONTEXT_LENGTH"]) == ("-1", "4096")
    assert (environ["OLLAMA_NUM_PARALLEL"], environ["OLLAMA_FLASH_ATTENTION"]) == ("3", "1")
    assert stage.seen["argv"] == ["serve"]


async def test_nothing_is_left_behind(stage: Stage) -> None:
    """Closing ends the program and what it started."""
    stage.plan(models=["m:1b"])
    async with stage.engine() as engine:
        await engine.load()
        pids = stage.seen["pid"], stage.seen["runner"]
        assert not any(map(gone, pids))
        assert engine.pid is not None
        guardian = engine.pid
    await until_gone(guardian, *pids)


async def test_a_death_is_mended(stage: Stage) -> None:
    """A program that dies under a request ends it with an error, is started again, and answers the next."""
    stage.plan(models=["m:1b"])
    async with stage.engine() as engine:
        await engine.load()
        first = stage.seen
        with pytest.raises(EngineDied, match="the upstream"):
            await run(engine, say("die"))
        assert (await run(engine, say())).text == "Hello"
        await until_gone(first["pid"], first["runner"])
        assert stage.seen["pid"] != first["pid"]
        assert engine.stats().restarts >= 1


async def test_a_death_that_nobody_sees_is_mended_too(stage: Stage) -> None:
    """So is one between requests, without anybody asking."""
    stage.plan(models=["m:1b"])
    async with stage.engine() as engine:
        await engine.load()
        os.kill(stage.seen["pid"], signal.SIGKILL)
        await until(engine, "failed")
        assert "SIGKILL" in engine.reason
        await until(engine, "ready")


async def test_a_program_that_always_dies_is_failure(stage: Stage) -> None:
    """After several quick ends the state is failed, with the last words."""
    stage.plan(die=True, say="no CUDA driver")
    async with stage.engine() as engine:
        with pytest.raises(EngineFailed, match="no CUDA driver"):
            await engine.load()
        assert engine.state == "failed"
        assert engine.log_lines[-1] == "no CUDA driver"


async def test_no_program(stage: Stage) -> None:
    """Where there is no such program, that is the reason, and what to set is the hint."""
    stage.binary = "no-such-program"
    async with stage.engine() as engine:
        with pytest.raises(EngineFailed, match="there is no program no-such-program") as caught:
            await engine.load()
        assert "AKASHLLM_OLLAMA_BINARY" in caught.value.hint


async def test_no_room_for_a_process(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no room for a process that is the reason, and it is tried again by itself."""
    stage.plan(models=["m:1b"])
    full = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    async with stage.engine() as engine:
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "create_subprocess_exec", AsyncMock(side_effect=full))
            with pytest.raises(EngineFailed, match="Resource temporarily unavailable"):
                await engine.load()
        await until(engine, "ready")


async def test_no_orphan_after_the_parent_is_killed(stage: Stage) -> None:
    """SIGKILL of the service takes the program and what it started along."""
    stage.plan(models=["m:1b"])
    code = (
        "import asyncio, sys\n"
        "from akashllm.server.engines.ollama.engine import OllamaEngine\n"
        "async def main():\n"
        "    engine = OllamaEngine('m:1b', name='m', binary=sys.argv[1], models=sys.argv[2])\n"
        "    await engine.load()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stage.binary, str(stage.folder), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    guardian = int(await parent.stdout.readline())
    pids = guardian, stage.seen["pid"], stage.seen["runner"]
    assert not any(map(gone, pids))
    parent.kill()
    await parent.communicate()
    await until_gone(*pids)


@pytest.mark.engine
def test_a_service_with_ollama_keeps_every_promise(tmp_path: Path) -> None:
    """With this service over llama.cpp as the program, the smoke test holds in both dialects."""
    key = "of-the-service-0123456789"
    serve = f'AKASHLLM_PORT="${{OLLAMA_HOST#*:}}" exec "{sys.executable}" -m akashllm.server'
    engine = OllamaEngine("tiny", name="tiny:latest", binary=program(tmp_path, serve), slots=4)
    settings = Settings(engine="ollama", api_key=key, model_aliases=("llama3",), log_level="error")
    with serving(engine, settings) as url:
        report = smoke(url, api_key=key)
        with ollama.Client(host=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            with pytest.raises(ollama.ResponseError, match="model 'mistral' not found"):
                client.generate("mistral", "x")
            assert client.ps().models[0].model == "tiny:latest"
            client.generate("tiny", keep_alive=0)
            assert client.ps().models == []
            assert "Tokyo" in (
                client.generate("llama3", "What is the capital of Japan?", think=False).response or ""
            )

    assert [f"{each.name}: {each.reason}" for each in report.broken] == []
