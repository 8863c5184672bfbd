"""LoRA adapters on the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm.errors import EngineFailed
from akashllm.models import TINY
from akashllm.server.domain import Sampling
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.testing.engine import chat
from tests.fleet.lora import write_lora
from tests.fleet.support import said

pytestmark = pytest.mark.engine

QUESTION = "Why is the sky blue?"


async def answer(*adapters: Path) -> tuple[str, tuple[float, ...]]:
    """The greedy answer with these adapters, and the log probabilities of its first tokens."""
    from msgspec.structs import replace

    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=1, adapters=adapters)
    request = replace(chat(QUESTION), sampling=Sampling(temperature=0.0), max_tokens=12, logprobs=0)
    try:
        await engine.load()
        events = [event async for event in engine.generate(request)]
    finally:
        await engine.close()
    logprobs = tuple(one.logprob for event in events for one in getattr(event, "logprobs", ()))
    return said(events), logprobs


async def test_an_adapter_changes_answers_and_an_empty_one_does_not(tmp_path: Path) -> None:
    """A zero adapter leaves every log probability as it was; another one does not; two add up to a third."""
    plain = await answer()
    assert await answer(write_lora(tmp_path / "zero.gguf", strength=0.0)) == plain
    strong = write_lora(tmp_path / "strong.gguf", strength=0.5)
    changed = await answer(strong)
    assert changed[0] != plain[0]
    both = await answer(strong, write_lora(tmp_path / "other.gguf", strength=0.5, seed=2))
    assert both[1] != changed[1]
    against = write_lora(tmp_path / "against.gguf", strength=-0.5)
    undone = await answer(strong, against)
    assert undone[0] == plain[0], "an adapter and its opposite cancel out"


@pytest.mark.parametrize("fault", ["missing", "no adapter", "another architecture", "cut short"])
async def test_a_bad_adapter_says_why(tmp_path: Path, fault: str) -> None:
    """What is no adapter of this model makes the load fail with a reason that names the file."""
    path = tmp_path / "bad.gguf"
    match fault:
        case "missing":
            pass
        case "no adapter":
            path.write_bytes(TINY.read_bytes())
        case "another architecture":
            write_lora(path, strength=0.5, architecture="qwen2")
        case _:
            path.write_bytes(write_lora(path, strength=0.5).read_bytes()[:-5000])
    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=1, adapters=[path])
    try:
        with pytest.raises(EngineFailed, match=r"bad\.gguf"):
            await engine.load()
    finally:
        await engine.close()
