"""The same numbers as libmtmd's own evaluation, for images in a line and in a grid of positions."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as api
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
import pytest

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


@pytest.mark.parametrize("kind", [line, grid])
async def test_the_numbers_are_libmtmds_own(tmp_path: Path, kind: Callable[[Path], Files]) -> None:
    """The first token's log probability is what llama.cpp's helper gives for the same prompt and image."""
    model, projector = kind(tmp_path)
    text = ChatTemplate(str(read_header(TINY).text("tokenizer.chat_template"))).render(
        [SYSTEM, Message(role="user", content="<__media__>\nx")]
    )
    expected = await asyncio.to_thread(reference, model, projector, text)
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


def reference(model: Path, projector: Path, text: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Log probabilities after a prompt with one image, as llama.cpp's own helper computes them."""
    api.llama_backend_init()
    loaded = api.llama_model_load_from_file(str(model).encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx = 2048
    context = api.llama_init_from_model(loaded, params)
    wanted = mtmd.mtmd_context_params_default()
    wanted.warmup = False
    sight = mtmd.mtmd_init_from_file(str(projector).encode(), loaded, wanted)
    data = (ctypes.c_uint8 * len(PICTURE)).from_buffer_copy(PICTURE)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(sight, data, len(PICTURE), False)
    chunks = mtmd.mtmd_input_chunks_init()
    said = mtmd.mtmd_input_text()
    said.text, said.text_len, said.add_special, said.parse_special = (
        text.encode(),
        len(text.encode()),
        False,
        True,
    )
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(sight, chunks, ctypes.byref(said), bitmaps, 1) == 0
    past = api.llama_pos()
    assert mtmd.mtmd_helper_eval_chunks(sight, context, chunks, 0, 0, 512, True, ctypes.byref(past)) == 0
    size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(loaded))
    logits = np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (size,)).astype(np.float64)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(sight)
    api.llama_free(context)
    api.llama_model_free(loaded)
    peak = logits.max()
    logs: np.ndarray[tuple[int], np.dtype[np.float64]] = logits - peak - np.log(np.exp(logits - peak).sum())
    return logs


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
        asked = [asyncio.ensure_future(answer(engine, question(shown(PICTURE, "x")))) for _ in range(2)]
        await asyncio.sleep(0)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        assert [text for text, _ in await asyncio.gather(*asked)] == [expected] * 2
        assert engine.stats().restarts == 1
    finally:
        await engine.close()
