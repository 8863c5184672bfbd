"""Numbers and texts at the edge of what arithmetic and a tokenizer can bear."""

from __future__ import annotations

import random
from array import array
from typing import Any

import llama_cpp.llama_cpp as api
import numpy as np
import pytest

from akashllm.models import TINY
from akashllm.server.engines.llamacpp.shelf import ENTRIES, Kept, Shelf
from akashllm.server.engines.llamacpp.vocabulary import Vocabulary
from tests.redteam.conftest import Victim


@pytest.mark.parametrize("mirostat", [1, 2])
@pytest.mark.parametrize(("tau", "eta"), [(100, 0), (100, 100), (5, 100), (0, 100)])
@pytest.mark.parametrize("temperature", [1, 100])
def test_mirostat_has_no_deadly_settings(
    victim: Victim, mirostat: int, tau: float, eta: float, temperature: float
) -> None:
    """A flat distribution and a distant target are sampled, not an overflow that ends the engine."""
    options = {
        "mirostat": mirostat,
        "mirostat_tau": tau,
        "mirostat_eta": eta,
        "temperature": temperature,
        "num_predict": 60,
    }
    body = {"model": "tiny", "prompt": "Tell me a story.", "raw": True, "stream": False, "options": options}
    answer = victim.http.post("/api/generate", json=body)
    assert answer.status_code == 200
    assert answer.json()["done"]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-46, 1e-39])
@pytest.mark.parametrize(
    "extra", [{"top_k": 0}, {"top_k": 0, "typical_p": 0.5}, {"top_k": 40}, {"mirostat": 2}]
)
def test_a_temperature_near_zero_is_zero(victim: Victim, temperature: float, extra: dict[str, Any]) -> None:
    """A temperature that float32 cannot divide by gives the most likely answer, not any token."""
    answer = victim.ask(temperature=temperature, **extra)
    assert answer.json()["choices"][0]["message"]["content"] == "7 + 8 = 15"


def test_a_text_of_special_tokens_is_refused_with_its_length(victim: Victim) -> None:
    """Eight megabytes of end marks are counted and refused; llama.cpp alone would take half an hour."""
    prompt = "<|im_end|>" * (8 * 2**20 // len("<|im_end|>"))
    answer = victim.http.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "838860" in error["message"]


def test_the_shelf_is_bounded_in_number_too() -> None:
    """However small the sequences put aside are, a request is compared with a bounded number of them."""
    shelf = Shelf(limit=1 << 30)
    for place in range(ENTRIES + 100):
        shelf.put(Kept(array("i", [1, 2, 3, place]), np.zeros(1, np.uint8), 0, None))
    assert len(shelf) == ENTRIES
    assert shelf.size == ENTRIES
    assert shelf.best(array("i", [1, 2, 3, ENTRIES + 99]), whole=False)[1] == 4


@api.llama_log_callback  # type: ignore[untyped-decorator] # the binding has no types
def silent(*_: object) -> None:
    """Keeps the library's log off the terminal."""


def test_a_text_cut_at_special_tokens_has_the_same_tokens() -> None:
    """Cutting a text before it is tokenised changes nothing but the time it takes."""
    api.llama_log_set(silent, None)
    settings = api.llama_model_default_params()
    settings.vocab_only = True
    model = api.llama_model_load_from_file(str(TINY).encode(), settings)
    try:
        vocabulary = Vocabulary(model)
        draw = random.Random(7)
        parts = [*vocabulary.special, "hello ", "  \n", " a", "\u00e9", "<|im_", "x" * 50]
        text = "".join(draw.choice(parts) for _ in range(20_000))
        for special in (True, False):
            for bos in (True, False):
                whole = vocabulary._tokenize(text, special=special, bos=bos)
                assert vocabulary.tokenize(text, special=special, bos=bos) == whole
    finally:
        api.llama_model_free(model)
