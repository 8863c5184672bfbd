"""The same numbers as libmtmd's own evaluation, for images in a line and in a grid of positions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from akashllm.gguf import read_header
from akashllm.models import TINY
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import Delta, Message
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from tests.vision.conftest import answer, question, shown
from tests.vision.drawing import noise, png
from tests.vision.projector import write_projector
from tests.vision.qwen import write_grid_projector, write_model

Files = tuple[Path, Path]
PICTURE = png(noise(1, 224, 112))
SYSTEM = Message(role="system", content="Look closely. " * 20)


def line(folder: Path) -> Files:
    """The bundled model with LLaVA's kind of projector."""
    return TINY, write_projector(folder / "mmproj.gguf")


def grid(folder: Path) -> Files:
    """Qwen2-VL's kind of both."""
    return write_model(folder / "model.gguf"), write_grid_projector(folder / "mmproj.gguf")


def reference(folder: Path, model: Path, projector: Path, text: str) -> NDArray[np.float64]:
    """Log probabilities after the prompt, from a process that llama.cpp may have for itself."""
    image, out = folder / "image.png", folder / "reference.npy"
    image.write_bytes(PICTURE)
    command = [sys.executable, "-m", "tests.vision.reference", *map(str, (model, projector, image, out))]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)
    found: NDArray[np.float64] = np.load(out)
    return found


@pytest.mark.parametrize("kind", [line, grid])
async def test_the_numbers_are_libmtmds_own(tmp_path: Path, kind: Callable[[Path], Files]) -> None:
    """The first token's log probability is what llama.cpp's helper gives for the same prompt and image."""
    model, projector = kind(tmp_path)
    text = ChatTemplate(str(read_header(TINY).text("tokenizer.chat_template"))).render(
        [SYSTEM, Message(role="user", content="<__media__>\nx")]
    )
    expected = await asyncio.to_thread(reference, tmp_path, model, projector, text)
    engine = LlamaCppEngine(model, name="seeing:latest", projector=projector, slots=2)
    try:
        found = [
            entry
            async for event in engine.generate(question(SYSTEM, shown(PICTURE, "x"), logprobs=3, tokens=1))
            if isinstance(event, Delta)
            for entry in event.logprobs
        ]
    finally:
        await engine.close()
    assert found[0].token == int(np.argmax(expected))
    for alternative in found[0].top:
        assert alternative.logprob == pytest.approx(float(expected[alternative.token]), abs=0.03)


async def test_a_grid_keeps_its_place_in_company_and_cache(tmp_path: Path) -> None:
    """Where an image takes fewer positions than tokens, sharing and following up change nothing."""
    model, projector = grid(tmp_path)
    first = question(SYSTEM, shown(PICTURE, "x"), tokens=6)
    engine = LlamaCppEngine(model, name="seeing:latest", projector=projector, slots=3)
    try:
        alone, usage = await answer(engine, first)
        repeated, again = await answer(engine, first)
        more = (Message(role="assistant", content="hm"), Message(role="user", content="yes?"))
        _, follow = await answer(engine, question(SYSTEM, shown(PICTURE, "x"), *more, tokens=6))
        others = [question(SYSTEM, shown(png(noise(seed, 224, 112)), "x"), tokens=6) for seed in (2, 3)]
        together = await asyncio.gather(*(answer(engine, request) for request in (others[0], first, others[1])))
    finally:
        await engine.close()
    assert repeated == together[1][0] == alone
    assert usage.cached_tokens == 0
    assert again.cached_tokens == usage.prompt_tokens - 1
    assert follow.cached_tokens >= usage.prompt_tokens - 8


async def test_a_large_image_is_scaled_to_what_a_step_takes(tmp_path: Path) -> None:
    """A projector that would make thousands of tokens of a photograph makes as many as fit one step."""
    model, projector = grid(tmp_path)
    engine = LlamaCppEngine(model, name="seeing:latest", projector=projector, slots=1, batch=256)
    try:
        _, usage = await answer(engine, question(shown(png(noise(2, 1200, 900)), "x"), tokens=2))
    finally:
        await engine.close()
    assert 100 < usage.prompt_tokens < 300


async def test_a_child_that_dies_while_it_looks_is_replaced(tmp_path: Path) -> None:
    """A request whose image ends the engine's process, as a hostile one might, is sent to the next process."""
    model, projector = line(tmp_path)
    engine = LlamaCppEngine(model, name="seeing:latest", projector=projector, slots=2)
    try:
        await engine.load()
        expected, _ = await answer(engine, question(shown(PICTURE, "x")))
        assert engine.pid is not None
        # It stands still first: what has begun to answer would rightly end with an error.
        os.kill(engine.pid, signal.SIGSTOP)
        asked = [asyncio.ensure_future(answer(engine, question(shown(PICTURE, "x")))) for _ in range(2)]
        while engine.stats().running < len(asked):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        os.kill(engine.pid, signal.SIGKILL)
        assert [text for text, _ in await asyncio.gather(*asked)] == [expected] * 2
        assert engine.stats().restarts == 1
    finally:
        await engine.close()
