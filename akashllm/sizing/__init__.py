"""How much memory a model needs, spelled out as a sum, and which GPUs have it. Pure: no I/O."""

from __future__ import annotations

from akashllm.sizing.fit import COUNTS, Fit, counts_for, fits, rank, unfit, usable_gib
from akashllm.sizing.memory import Need, cache_bytes, estimate, working_bytes
from akashllm.sizing.quants import GGUF, SAFETENSORS, Quant, weight_bytes

__all__ = [
    "COUNTS",
    "GGUF",
    "SAFETENSORS",
    "Fit",
    "Need",
    "Quant",
    "cache_bytes",
    "counts_for",
    "estimate",
    "fits",
    "rank",
    "unfit",
    "usable_gib",
    "weight_bytes",
    "working_bytes",
]
