"""`python -m tests.vision.reference MODEL PROJECTOR IMAGE OUT`, a prompt on stdin: llama.cpp's own numbers."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp.llama_cpp as api
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from numpy.typing import NDArray


def evaluate(model: Path, projector: Path, picture: bytes, text: str) -> NDArray[np.float64]:
    """Log probabilities after a prompt with one image, as llama.cpp's own helper computes them."""
    api.llama_backend_init()
    loaded = api.llama_model_load_from_file(str(model).encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx = 2048
    context = api.llama_init_from_model(loaded, params)
    wanted = mtmd.mtmd_context_params_default()
    wanted.warmup = False
    sight = mtmd.mtmd_init_from_file(str(projector).encode(), loaded, wanted)
    data = (ctypes.c_uint8 * len(picture)).from_buffer_copy(picture)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(sight, data, len(picture), False)
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
    logs: NDArray[np.float64] = logits - peak - np.log(np.exp(logits - peak).sum())
    return logs


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    np.save(given[3], evaluate(given[0], given[1], given[2].read_bytes(), sys.stdin.read()))
