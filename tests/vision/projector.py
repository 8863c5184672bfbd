"""A projector of a few kilobytes with random weights, in LLaVA's shape, as wide as the bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

WIDTH = 256
"""Embedding width of the bundled model."""
TOKENS = 16
"""Tokens of an image: a square of 56 pixels, in patches of 14."""

_SIZE, _PATCH = 56, 14
_HIDDEN, _HEADS, _LAYERS = 32, 2, 3


def write_projector(path: Path, *, width: int = WIDTH, seed: int = 7) -> Path:
    """Write the file. Its last layer is left out when an image is read, as LLaVA does."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(str(path), "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.image_size", _SIZE)
    writer.add_uint32("clip.vision.patch_size", _PATCH)
    writer.add_uint32("clip.vision.embedding_length", _HIDDEN)
    writer.add_uint32("clip.vision.feed_forward_length", 2 * _HIDDEN)
    writer.add_uint32("clip.vision.projection_dim", width)
    writer.add_uint32("clip.vision.attention.head_count", _HEADS)
    writer.add_uint32("clip.vision.block_count", _LAYERS)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, random.normal(0.0, scale, shape).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(_HIDDEN, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(_HIDDEN, np.float32))

    add("v.patch_embd.weight", _HIDDEN, 3, _PATCH, _PATCH, scale=0.1)
    add("v.position_embd.weight", TOKENS + 1, _HIDDEN)
    add("v.class_embd", _HIDDEN)
    norm("v.pre_ln")
    norm("v.post_ln")
    for layer in range(_LAYERS):
        block = f"v.blk.{layer}"
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"{block}.{part}.weight", _HIDDEN, _HIDDEN)
            add(f"{block}.{part}.bias", _HIDDEN)
        add(f"{block}.ffn_up.weight", 2 * _HIDDEN, _HIDDEN)
        add(f"{block}.ffn_up.bias", 2 * _HIDDEN)
        add(f"{block}.ffn_down.weight", _HIDDEN, 2 * _HIDDEN)
        add(f"{block}.ffn_down.bias", _HIDDEN)
    add("mm.0.weight", width, _HIDDEN)
    add("mm.0.bias", width)
    add("mm.2.weight", width, width, scale=0.3)
    add("mm.2.bias", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
