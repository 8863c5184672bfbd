"""The estimates against figures that others published: file sizes, engines' logs, model cards."""

from __future__ import annotations

import pytest

from akashllm.catalog import Catalog
from akashllm.sizing import GGUF, SAFETENSORS, cache_bytes, estimate, weight_bytes, working_bytes

GIB, MIB, GB = 1024**3, 1024**2, 10**9
CATALOG = Catalog.load()

OLLAMA = "ollama README at v0.7.0-rc1 (pkg.go.dev/github.com/ollama/ollama@v0.7.0-rc1)"
QUANTIZE = "llama.cpp tools/quantize/README.md, table for Llama 3.1 8B"

WEIGHTS = [
    ("llama3.1", "Q2_K", 2.95 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q3_K_M", 3.74 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q4_K_S", 4.36 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q4_K_M", 4.58 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q5_K_M", 5.33 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q6_K", 6.14 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "Q8_0", 7.95 * GIB, 0.01, QUANTIZE),
    ("llama3.1", "F16", 14.96 * GIB, 0.01, QUANTIZE),
    ("llama3.1:70b", "Q4_0", 37.22 * GIB, 0.02, "log in ollama/ollama pull request 6279"),
    ("deepseek-r1:7b", "Q4_K_M", 4.36 * GIB, 0.02, "log in containers/ramalama issue 616"),
    ("deepseek-r1:32b", "Q4_K_M", (18508.35 + 417.66) * MIB, 0.02, "log in ggml-org/llama.cpp issue 11861"),
    ("llama3.3", "Q4_K_M", 43 * GB, 0.02, OLLAMA),
    ("llama3.2", "Q4_K_M", 2.0 * GB, 0.03, OLLAMA),
    ("llama3.2:1b", "Q8_0", 1.3 * GB, 0.03, OLLAMA),
    ("qwq", "Q4_K_M", 20 * GB, 0.03, OLLAMA),
    ("phi4", "Q4_K_M", 9.1 * GB, 0.03, OLLAMA),
    ("phi4-mini", "Q4_K_M", 2.5 * GB, 0.05, OLLAMA),
    ("gemma3:27b", "Q4_K_M", 17 * GB, 0.05, OLLAMA),
    ("gemma3", "Q4_K_M", 3.3 * GB, 0.05, OLLAMA),
    ("llama4", "Q4_K_M", 67 * GB, 0.03, OLLAMA),
    ("llama3.2-vision", "Q4_K_M", 7.9 * GB, 0.05, OLLAMA),
    ("deepseek-r1:671b", "Q4_K_M", 404 * GB, 0.03, OLLAMA),
    ("llama3", "Q4_0", 4.7 * GB, 0.02, "ollama README of 2024"),
    ("llama3:70b", "Q4_0", 40 * GB, 0.02, "ollama README of 2024"),
    ("phi3:medium", "Q4_0", 7.9 * GB, 0.02, "ollama README of 2024"),
]


@pytest.mark.parametrize(("alias", "quant", "published", "tolerance", "source"), WEIGHTS)
def test_gguf_files(alias: str, quant: str, published: float, tolerance: float, source: str) -> None:
    """A GGUF file is as large as its publisher says."""
    assert weight_bytes(CATALOG.find(alias), GGUF[quant.lower()]) == pytest.approx(published, rel=tolerance), (
        source
    )


SAFETENSOR_WEIGHTS = [
    ("llama3", "bf16", 14.96 * GIB, 0.001, "log in vllm-project/vllm pull request 10511"),
    ("llama3.2-vision", "bf16", 19.86 * GIB, 0.002, "log in vllm-project/vllm pull request 12126"),
    (
        "llama3.3",
        "fp8",
        72.7 * GB,
        0.01,
        "size of RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic in a public list",
    ),
]


@pytest.mark.parametrize(("alias", "quant", "published", "tolerance", "source"), SAFETENSOR_WEIGHTS)
def test_safetensors(alias: str, quant: str, published: float, tolerance: float, source: str) -> None:
    """Weights take what vLLM's log says they take."""
    assert weight_bytes(CATALOG.find(alias), SAFETENSORS[quant]) == pytest.approx(published, rel=tolerance), (
        source
    )


def test_mxfp4_is_counted_where_it_is_used() -> None:
    """gpt-oss 120B worked out from its experts comes to the 63,387,346,208 bytes of ggml-org's file."""
    model = CATALOG.find("gpt-oss:120b")
    experts = model.shape.expert_parameters()
    worked_out = experts * 4.25 / 8 + (model.parameters - experts) * 8.5 / 8
    assert worked_out == pytest.approx(63_387_346_208, rel=0.01)
    assert weight_bytes(model, GGUF["mxfp4"]) == 63_387_346_208


def test_grouped_query_cache() -> None:
    """Qwen2.5 3B at 4,096 tokens keeps 144.00 MiB (log in SciSharp/LLamaSharp issue 1099)."""
    assert cache_bytes(CATALOG.find("qwen2.5:3b"), 4096, 1, "llamacpp") == 144 * MIB


def test_compressed_cache() -> None:
    """DeepSeek-R1 at 32,768 tokens keeps 1166.62 MiB in q8_0 (log in ik_llama.cpp pull request 259)."""
    in_f16 = cache_bytes(CATALOG.find("deepseek-r1:671b"), 32768, 1, "llamacpp")
    assert in_f16 * 8.5 / 16 == pytest.approx(1166.62 * MIB, rel=0.0001)


def test_sliding_window_cache() -> None:
    """The 12 window layers of gpt-oss 20B keep 768 cells, 18.00 MiB (log in llama.cpp pull request 17609)."""
    model = CATALOG.find("gpt-oss")
    every_layer = cache_bytes(model, 4096, 1, "llamacpp")
    full_layers = 12 * 4096 * model.shape.cache_values() * 2
    assert every_layer - full_layers == 18 * MIB


def test_cache_of_a_tensor_parallel_engine() -> None:
    """Qwen3 235B on four GPUs: 8.11 GiB each hold 178,880 tokens (vllm-project/vllm issue 21348)."""
    model = CATALOG.find("qwen3:235b")
    need = estimate(model, SAFETENSORS["fp8"], engine="vllm", context=178_880, concurrency=1)
    assert need.cache / 4 == pytest.approx(8.11 * GIB, rel=0.02)


@pytest.mark.parametrize(
    ("alias", "published"), [("llama3", 258.50), ("qwen2.5:3b", 300.75), ("gpt-oss", 404.00)]
)
def test_compute_buffer(alias: str, published: float) -> None:
    """llama.cpp's compute buffer, in MiB, as its logs print it (LLamaSharp 1099, llama.cpp 17609)."""
    assert working_bytes(CATALOG.find(alias), "llamacpp") == pytest.approx(published * MIB, rel=0.02)


def test_vllm_memory_profile() -> None:
    """Llama 3 8B under vLLM takes 14.96 + 1.79 + 1.26 GiB before the cache (its pull request 10511)."""
    need = estimate(CATALOG.find("llama3"), SAFETENSORS["bf16"], engine="vllm", context=8192, concurrency=1)
    assert need.working == pytest.approx(1.26 * GIB, rel=0.05)
    assert need.fixed == pytest.approx(1.79 * GIB, rel=0.15)
    assert need.total_gib - need.cache / GIB == pytest.approx(14.96 + 1.79 + 1.26, rel=0.02)
