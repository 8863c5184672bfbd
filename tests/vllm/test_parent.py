"""The service's side of the vLLM engine, over a child without vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from akashllm.errors import EngineDied, EngineFailed, UsageError
from akashllm.server import vllm
from akashllm.server.engines.vllm.engine import VllmEngine
from akashllm.server.engines.vllm.options import Options
from akashllm.server.settings import BadSettings, Settings
from tests.engine.ask import run, say
from tests.vllm.conftest import ROOT

KEY = "sesame-open-0123456789"


def standin(tmp_path: Path, *, watchdog: float = 60.0, **extra: Any) -> VllmEngine:
    """An engine whose child does what `extra` says."""
    options = Options(extra=extra)
    return VllmEngine(
        tmp_path,
        name="tiny:latest",
        context=64,
        slots=3,
        options=options,
        path=str(ROOT),
        watchdog=watchdog,
        child="tests.vllm.standin",
    )


async def test_what_the_child_read_is_not_read_again(tmp_path: Path) -> None:
    """Thinking and calls arrive as the child told them, marks of other formats in them included."""
    engine = standin(tmp_path)
    try:
        reply = await run(engine, say("Hello"))
    finally:
        await engine.close()
    assert (reply.thinking, reply.text, reply.reason) == ("<think> stays", "<tool_call> stays", "tool_calls")
    assert [call.name for call in reply.calls] == ["get_weather"]


@pytest.mark.parametrize("whose", ["", "order"])
async def test_a_refusal_is_the_reason(tmp_path: Path, whose: str) -> None:
    """What the child says it cannot run is said to the client, with whose fault it is, and not tried again."""
    engine = standin(tmp_path, refuse="the driver is 570.1 and this vLLM needs 580 or newer", whose=whose)
    with pytest.raises(EngineFailed, match=r"the driver is 570\.1"):
        await engine.load()
    assert engine.state == "failed"
    assert engine.stats().restarts == 0
    assert engine.fault == whose
    await engine.close()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="this very interpreter has vLLM")
async def test_an_interpreter_without_vllm_is_said_to_be_one(tmp_path: Path) -> None:
    """Where vLLM is not installed, the reason names the variable to set, and nothing is tried again."""
    engine = VllmEngine(tmp_path, name="tiny:latest", path=str(ROOT))
    with pytest.raises(EngineFailed, match="set AKASHLLM_CHILD_PYTHON to one that has it"):
        await engine.load()
    assert (engine.state, engine.stats().restarts) == ("failed", 0)
    await engine.close()


@pytest.mark.parametrize("fault", ["die", "hang"])
async def test_a_child_that_fails_is_replaced(tmp_path: Path, fault: str) -> None:
    """A death or a hang ends the answer that had begun, in words, and the next one is whole."""
    engine = standin(tmp_path, watchdog=5.0, mark=str(tmp_path / "once"), fault=fault)
    words = "engine core died" if fault == "die" else "did not end"
    try:
        with pytest.raises(EngineDied, match=words):
            await run(engine, say("Hello"))
        assert (await run(engine, say("Hello"))).calls
        assert engine.stats().restarts == 1
    finally:
        await engine.close()


async def test_a_child_whose_heirs_stay_is_replaced(tmp_path: Path) -> None:
    """A death is seen at once, even where a process that the child started lives on and holds its output."""
    mark = tmp_path / "once"
    engine = standin(tmp_path, mark=str(mark), fault="heir")
    try:
        async with asyncio.timeout(30):
            with pytest.raises(EngineDied, match="status 1"):
                await run(engine, say("Hello"))
            assert (await run(engine, say("Hello"))).calls
    finally:
        await engine.close()
        os.kill(int(mark.read_text()), signal.SIGKILL)


async def test_the_child_has_its_own_path_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is found where the settings say; keys and tokens stay with the service, VLLM_* go along."""
    monkeypatch.setenv("AKASHLLM_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", KEY)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/data/vllm")
    engine = standin(tmp_path)
    try:
        await engine.load()
        known = engine.info.metadata
    finally:
        await engine.close()
    assert KEY not in str(known)
    assert known["environment"]["PYTHONPATH"] == str(ROOT)
    assert known["environment"]["VLLM_CACHE_ROOT"] == "/data/vllm"
    assert str(ROOT) in known["path"]


def test_the_settings_reach_the_options(tmp_path: Path) -> None:
    """Every variable for vLLM ends in the option of its meaning."""
    settings = Settings.from_env(
        {
            "AKASHLLM_ENGINE": "vllm",
            "AKASHLLM_GPUS": "4",
            "AKASHLLM_NODES": "2",
            "AKASHLLM_GPU_MEMORY": "0.5",
            "AKASHLLM_DTYPE": "bfloat16",
            "AKASHLLM_TASK": "embed",
            "AKASHLLM_CHATS": "vllm",
            "AKASHLLM_TOOL_PARSER": "hermes",
            "AKASHLLM_REASONING_PARSER": "qwen3",
            "AKASHLLM_LORA": "poet=/models/poet, org/judge:2=/models/judge",
            "AKASHLLM_VLLM_OPTIONS": '{"kv_cache_dtype": "fp8"}',
        }
    )
    assert vllm.options(settings) == Options(
        gpus=4,
        nodes=2,
        memory=0.5,
        dtype="bfloat16",
        task="embed",
        chats="vllm",
        tool_parser="hermes",
        reasoning_parser="qwen3",
        adapters={"poet:latest": "/models/poet", "org/judge:2": "/models/judge"},
        extra={"kv_cache_dtype": "fp8"},
    )
    assert Options.unpack(vllm.options(settings).pack()) == vllm.options(settings)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AKASHLLM_LORA", "poet", "poet=/models/poet"),
        ("AKASHLLM_LORA", "../x=/models/poet", "AKASHLLM_LORA"),
        ("AKASHLLM_VLLM_OPTIONS", "[1]", "must be a JSON object"),
        ("AKASHLLM_VLLM_OPTIONS", "{", "must be a JSON object"),
        ("AKASHLLM_GPU_MEMORY", "1.5", "from 0 to 1"),
        ("AKASHLLM_GPU_MEMORY", "nan", "from 0 to 1"),
        ("AKASHLLM_GPUS", "0", "AKASHLLM_GPUS"),
    ],
)
def test_impossible_settings_are_named(variable: str, value: str, words: str) -> None:
    """A value that means nothing is refused with the variable's name and an example."""
    with pytest.raises(BadSettings, match=words):
        Settings.from_env({variable: value})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """What is no folder of Hugging Face files cannot be served, and the hint says what is wanted."""
    with pytest.raises(UsageError, match="no model in the folder"):
        vllm.build_local(Settings(engine="vllm", model=str(tmp_path)))


def test_an_interpreter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The variable is named."""
    (tmp_path / "config.json").write_text("{}")
    settings = Settings(engine="vllm", model=str(tmp_path), child_python="/nowhere/python3")
    with pytest.raises(UsageError, match="no interpreter at /nowhere/python3"):
        vllm.build_local(settings)
