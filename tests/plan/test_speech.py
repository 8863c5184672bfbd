"""A Whisper as a plan: the engine that transcribes, what it needs, what cannot be asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from akashllm.errors import UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.planning.written import plan_of
from akashllm.render import render_sdl
from akashllm.server.engine import Transcriber
from akashllm.server.run import build_engine
from akashllm.server.settings import Settings


def test_a_whisper_is_planned_for_the_engine_that_transcribes() -> None:
    """The llama.cpp image runs faster-whisper: one GPU and recording, weights as stored, memory as measured."""
    on_gpu, on_cpu = (make_plan(DeployRequest(model="whisper", cpu_only=cpu)) for cpu in (False, True))

    assert on_gpu.image.startswith("akashllm/llamacpp:")
    assert on_cpu.image.endswith("-cpu")
    assert dict(on_gpu.env) == dict(on_cpu.env)
    assert dict(on_gpu.env)["AKASHLLM_ENGINE"] == "whisper"
    assert (on_gpu.concurrency, on_gpu.gpus[0].count, on_cpu.gpus) == (1, 1, ())
    # faster-whisper, issue 1030: 2537 MB for the Turbo, 4521 MB for the Large v3, both in 16 bits.
    assert on_gpu.memory_gib == pytest.approx(2537 / 1024, rel=0.1)
    large = make_plan(DeployRequest(model="whisper-large-v3"))
    assert large.memory_gib == pytest.approx(4521 / 1024, rel=0.1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine": "vllm", "context": 300}, "--context"),
        ({"engine": "vllm", "nodes": 2}, "--nodes"),
        ({"engine": "ollama"}, "--engine llamacpp"),
        ({"gpu_count": 2}, "--gpu-count"),
        ({"concurrency": 4}, "--concurrency"),
        ({"context": 300}, "--context"),
        ({"quant": "Q4_K_M"}, "--quant"),
        ({"manage": True}, "--manage"),
    ],
)
def test_what_a_whisper_cannot_have_is_refused_with_a_way_out(more: dict[str, Any], words: str) -> None:
    """No flag is without effect."""
    with pytest.raises(UsageError) as caught:
        make_plan(DeployRequest(model="whisper", **more))
    assert words in caught.value.hint


def test_the_sdl_of_a_whisper_reads_back_as_its_plan() -> None:
    """A committed SDL says llamacpp's image and faster-whisper's engine, and is understood."""
    made = make_plan(DeployRequest(model="whisper", name="ears"))
    read = plan_of(render_sdl(made), None, source="ears.yaml")

    assert (read.engine, read.model.kind, read.model.alias) == ("llamacpp", "ct2", "whisper")
    assert (read.env, read.secrets, read.image) == (made.env, made.secrets, made.image)


def test_a_whisper_for_vllm_is_planned_to_be_told_so() -> None:
    """The engine is told what the model is for, and hears several recordings at once."""
    made = make_plan(DeployRequest(model="whisper", engine="vllm"))
    chosen = Settings.from_env(dict(made.env) | {"AKASHLLM_API_KEY": "sk-of-a-test-0123456789"})

    assert (chosen.engine, chosen.task, chosen.model) == (
        "vllm",
        "transcribe",
        "hf.co/openai/whisper-large-v3-turbo",
    )
    assert chosen.concurrency == made.concurrency > 1
    assert isinstance(build_engine(chosen), Transcriber)
