"""How many bits a weight takes in each quantisation, told apart by where the weight sits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from akashllm.catalog.model import Model
from akashllm.catalog.shape import Shape
from akashllm.plan import EngineName

Where = Literal["gguf", "safetensors"]


@dataclass(frozen=True, slots=True)
class Quant:
    """Bits per weight. llama.cpp's mixtures keep some layers finer, so `body` is their average.

    body        attention and feed-forward matrices
    embedding   the token embedding where a separate output matrix exists
    output      the output matrix, or the embedding that serves as one
    experts     routed experts where they differ from the rest of the body
    compute     lowest CUDA compute capability that runs it
    """

    name: str
    where: Where
    body: float
    embedding: float
    output: float
    experts: float | None = None
    compute: tuple[int, int] = (7, 5)
    note: str = ""


# Block types: bits per weight from the block layouts in llama.cpp's ggml-common.h, e.g. Q4_K = 144 bytes for
# 256 weights = 4.5, Q6_K = 210 bytes = 6.5625, Q8_0 = 34 bytes for 32 = 8.5. `body` of a mixture is solved
# from the whole-file figure for Llama 3.1 8B in llama.cpp tools/quantize/README.md (4.8944 for Q4_K_M), with
# the output matrix in Q6_K and the embedding in the base type, as src/llama-quant.cpp does.
_GGUF = (
    Quant("Q2_K", "gguf", 2.944, 2.625, 6.5625),
    Quant("Q3_K_S", "gguf", 3.439, 3.4375, 6.5625),
    Quant("Q3_K_M", "gguf", 3.845, 3.4375, 6.5625),
    Quant("Q3_K_L", "gguf", 4.192, 3.4375, 6.5625),
    Quant("IQ4_XS", "gguf", 4.318, 4.25, 6.5625),
    Quant("Q4_0", "gguf", 4.5, 4.5, 6.5625),
    Quant("Q4_K_S", "gguf", 4.538, 4.5, 6.5625),
    Quant("Q4_K_M", "gguf", 4.799, 4.5, 6.5625),
    Quant("Q5_0", "gguf", 5.5, 5.5, 6.5625),
    Quant("Q5_K_S", "gguf", 5.501, 5.5, 6.5625),
    Quant("Q5_K_M", "gguf", 5.655, 5.5, 6.5625),
    Quant("Q6_K", "gguf", 6.5625, 6.5625, 6.5625),
    Quant("Q8_0", "gguf", 8.5, 8.5, 8.5),
    Quant("F16", "gguf", 16, 16, 16),
    Quant("BF16", "gguf", 16, 16, 16),
    Quant("F32", "gguf", 32, 32, 32),
    # gpt-oss as converted by ggml-org: experts stay MXFP4 (17 bytes for 32 weights), the rest is Q8_0.
    Quant("MXFP4", "gguf", 8.5, 8.5, 8.5, experts=4.25),
)

# vLLM, docs/features/quantization: fp8 W8A8 from 8.9 on, AWQ from 7.5, GPTQ (Marlin) from 8.0, MXFP4 from 8.0,
# bfloat16 from 8.0. Embedding and output matrix stay 16 bits; int4 groups of 128 add a scale and a zero point.
_SAFETENSORS = (
    Quant("bf16", "safetensors", 16, 16, 16, compute=(8, 0)),
    Quant("f16", "safetensors", 16, 16, 16),
    Quant("f32", "safetensors", 32, 32, 32),
    Quant("fp8", "safetensors", 8, 16, 16, compute=(8, 9)),
    Quant("awq", "safetensors", 4.156, 16, 16),
    Quant("gptq", "safetensors", 4.156, 16, 16, compute=(8, 0)),
    Quant("mxfp4", "safetensors", 16, 16, 16, experts=4.25, compute=(8, 0)),
)

GGUF = {quant.name.lower(): quant for quant in _GGUF}
SAFETENSORS = {quant.name.lower(): quant for quant in _SAFETENSORS}


def weight_bytes(model: Model, quant: Quant, engine: EngineName = "llamacpp") -> int:
    """Bytes of the model's weights in `quant`: as read from the files where known, else worked out."""
    sizes = dict(model.sizes)
    usual = model.sources.ollama_quant or model.default_quant or "Q4_K_M"
    if engine == "ollama" and "ollama" in sizes and quant.name == usual:
        return sizes["ollama"]
    if quant.name in sizes:
        return sizes[quant.name]
    return round(_bits(model.shape, model.parameters, quant) / 8)


def _bits(shape: Shape, parameters: int, quant: Quant) -> float:
    embedding, output = shape.embedding_parameters(), shape.output_parameters()
    experts = shape.expert_parameters()
    body = max(0, parameters - embedding - output - experts - shape.extra)
    expert_bits = quant.body if quant.experts is None else quant.experts
    ends = embedding * quant.embedding + output * quant.output if output else embedding * quant.output
    return body * quant.body + experts * expert_bits + ends + shape.extra * max(16.0, quant.output)
