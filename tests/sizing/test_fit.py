"""Which GPUs hold a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.catalog import Catalog, Gpu, Prices
from akashllm.plan import EngineName
from akashllm.sizing import GGUF, SAFETENSORS, cache_bytes, counts_for, estimate, fits, unfit, usable_gib

CATALOG = Catalog.load()


def gpu(model: str, ram: int | None = None) -> Gpu:
    """The GPU of that name (and memory)."""
    return next(each for each in CATALOG.gpus if each.model == model and ram in {None, each.ram_gib})


def test_every_fit_holds_what_it_must() -> None:
    """No GPU is named that has less memory than its share of the model."""
    model, quant = CATALOG.find("llama3:70b"), GGUF["q4_k_m"]
    need = estimate(model, quant, engine="llamacpp", context=8192, concurrency=4)
    found = fits(model, need, quant, engine="llamacpp", gpus=CATALOG.gpus, prices=Prices.table())
    assert found
    for fit in found:
        assert fit.needs_gib <= fit.has_gib <= fit.gpu.memory_gib
        assert fit.needs_gib * fit.count >= need.weights / 1024**3


def test_the_sum_is_its_lines() -> None:
    """The lines that are shown add up to the total, to a thousandth of a GiB each."""
    need = estimate(CATALOG.find("qwen3"), SAFETENSORS["bf16"], engine="vllm", context=4096, concurrency=8)
    assert sum(line.gib for line in need.lines) == pytest.approx(need.total_gib, abs=0.003)
    assert [line.what for line in need.lines] == ["weights", "KV cache", "activations and logits", "engine"]


def test_vllm_splits_by_heads() -> None:
    """40 heads go to 1, 2, 4 or 8 GPUs, 28 heads not to 8, 14 only to 2."""
    assert counts_for(CATALOG.find("qwen2.5:14b"), SAFETENSORS["bf16"], "vllm") == (1, 2, 4, 8)
    assert counts_for(CATALOG.find("qwen2.5"), SAFETENSORS["bf16"], "vllm") == (1, 2, 4)
    assert counts_for(CATALOG.find("qwen2.5:0.5b"), SAFETENSORS["bf16"], "vllm") == (1, 2)


def test_no_block_of_fp8_is_cut() -> None:
    """Experts of 1,536 rows in blocks of 128 (Qwen3 235B in its own fp8) go to 4 GPUs, DeepSeek's to 8 too."""
    qwen, deepseek = CATALOG.find("qwen3:235b"), CATALOG.find("deepseek-r1:671b")
    assert counts_for(qwen, SAFETENSORS["bf16"], "vllm") == (1, 2, 4, 8)
    assert counts_for(qwen, SAFETENSORS["fp8"], "vllm") == (1, 2, 4)
    assert counts_for(deepseek, SAFETENSORS["fp8"], "vllm") == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("name", "quant", "engine", "why"),
    [
        ("v100", "f16", "vllm", "vllm needs compute capability 7.5"),
        ("v100", "q4_k_m", "llamacpp", "llamacpp needs compute capability 7.5"),
        ("t4", "bf16", "vllm", "bf16 needs compute capability 8.0, a t4 has 7.5"),
        ("a100", "fp8", "vllm", "fp8 needs compute capability 8.9, an a100 has 8.0"),
        ("l40s", "fp8", "vllm", ""),
        ("v100", "q4_k_m", "ollama", ""),
    ],
)
def test_compute_capability(name: str, quant: str, engine: EngineName, why: str) -> None:
    """Old GPUs are not named for what they cannot run, and the reason says so."""
    found = unfit(gpu(name), {**GGUF, **SAFETENSORS}[quant], engine)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_vllm_leaves_its_share_alone() -> None:
    """Of the 79.22 GiB that an H100 shows, vLLM plans with 92 % and llama.cpp with nearly all."""
    assert usable_gib(gpu("h100"), "vllm") == pytest.approx(0.92 * 79.22, rel=0.001)
    assert usable_gib(gpu("h100"), "llamacpp") > 79


def test_compressed_caches_are_not_shared_out() -> None:
    """Under vLLM each GPU keeps all of an MLA cache; KV heads are copied when there are too few."""
    mla = estimate(CATALOG.find("deepseek-v3"), SAFETENSORS["fp8"], engine="vllm", context=8192, concurrency=8)
    whole = mla.cache / 1024**3
    share = mla.per_gpu_gib(8, 128, "vllm") - (mla.weights / 8 + mla.working + mla.fixed) / 1024**3
    assert share == pytest.approx(whole)
    few = estimate(CATALOG.find("qwen2.5:14b"), SAFETENSORS["bf16"], engine="vllm", context=8192, concurrency=8)
    even = ((few.weights + few.cache) / 8 + few.working + few.fixed) / 1024**3
    assert few.per_gpu_gib(8, 2, "vllm") > few.per_gpu_gib(8, 8, "vllm") == pytest.approx(even)


def test_layers_are_dealt_out_whole() -> None:
    """DeepSeek's 61 layers and its output on 4 GPUs: one has 16; over 2 nodes of vLLM one has 31."""
    deepseek = CATALOG.find("deepseek-r1:671b")
    need = estimate(deepseek, GGUF["q4_k_m"], engine="llamacpp", context=8192, concurrency=4)
    own = (need.working + need.fixed) / 1024**3
    fullest = need.per_gpu_gib(4, 128, "llamacpp") - own
    assert fullest == pytest.approx((need.weights + need.cache) / 1024**3 * 16 / 62)
    found = fits(deepseek, need, GGUF["q4_k_m"], engine="llamacpp", gpus=CATALOG.gpus, prices=Prices.table())
    assert need.total_gib < 4 * 96
    assert all(fit.gpu.ram_gib > 96 for fit in found if fit.count == 4)
    assert need.per_gpu_gib(1, 128, "llamacpp") == pytest.approx(need.total_gib)
    served = estimate(deepseek, SAFETENSORS["fp8"], engine="vllm", context=8192, concurrency=8)
    own = (served.working + served.fixed) / 1024**3
    fullest = served.per_gpu_gib(8, 128, "vllm", nodes=2) - own
    assert fullest == pytest.approx((served.weights / 8 + served.cache) / 1024**3 * 31 / 61)


@given(
    alias=st.sampled_from([model.alias for model in CATALOG]),
    context=st.integers(128, 131072),
    concurrency=st.integers(1, 64),
    engine=st.sampled_from(["vllm", "llamacpp", "ollama"]),
)
def test_more_context_never_needs_less(alias: str, context: int, concurrency: int, engine: EngineName) -> None:
    """The cache grows with context and with concurrency, and a window never makes it larger than without."""
    model = CATALOG.find(alias)
    one = cache_bytes(model, context, concurrency, engine)
    assert one <= cache_bytes(model, context + 1, concurrency, engine)
    assert one <= cache_bytes(model, context, concurrency + 1, engine)
    if model.shape.kind == "decoder":
        whole = model.shape.layers * model.shape.cache_values() * 2 * context * concurrency
        assert 0 <= one <= whole
