"""LoRA adapters for the bundled model, made by hand: what a converter would write, a few kilobytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from akashllm.gguf import read_header
from akashllm.models import TINY
from tests.gguf.build import pair, string, tensor, text, u32

RANK = 4


def write_lora(path: Path, *, strength: float, architecture: str = "llama", seed: int = 1) -> Path:
    """An adapter of random directions on every query and value matrix; strength 0 changes nothing."""
    chance = np.random.default_rng(seed)
    shapes = {t.name: t.shape for t in read_header(TINY).tensors}
    tensors, data = [], b""
    for name, shape in shapes.items():
        if not name.endswith(("attn_q.weight", "attn_v.weight")):
            continue
        inward, outward = shape
        # ggml has the innermost dimension first: A maps `inward` to the rank, B the rank to `outward`.
        for suffix, dimensions, scale in (
            ("lora_a", (inward, RANK), 1.0),
            ("lora_b", (RANK, outward), strength),
        ):
            values = chance.standard_normal(dimensions[::-1]).astype(np.float32) * scale
            tensors.append(tensor(f"{name}.{suffix}", dimensions, 0, len(data)))
            data += values.tobytes()
            data += bytes(-len(data) % 32)
    pairs = [
        string("general.architecture", architecture),
        string("general.type", "adapter"),
        string("adapter.type", "lora"),
        pair("adapter.lora.alpha", 6, struct.pack("<f", float(RANK))),
        u32("general.alignment", 32),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


__all__ = ["RANK", "text", "write_lora"]
