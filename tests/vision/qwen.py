"""A model and a projector in the shape of Qwen2-VL with random weights: positions of images lie in a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter

from akashllm.models import TINY

WIDTH, HEADS, LAYERS = 64, 2, 2
_HIDDEN = 32
_PATCH = 14


def write_model(path: Path, *, seed: int = 3) -> Path:
    """A text model with the bundled model's vocabulary and chat template."""
    reader = GGUFReader(str(TINY))
    writer = GGUFWriter(str(path), "qwen2vl")
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], kind)
    tokens: Any = reader.fields["tokenizer.ggml.tokens"].contents()
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_array("qwen2vl.rope.dimension_sections", [4, 6, 6, 0])
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float = 0.2) -> None:
        writer.add_tensor(name, random.normal(0.0, scale, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), WIDTH, scale=1.0)
    add("output.weight", len(tokens), WIDTH, scale=1.0)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, np.float32))
        for part in ("attn_q", "attn_k", "attn_v"):
            add(f"{block}.{part}.weight", WIDTH, WIDTH)
            add(f"{block}.{part}.bias", WIDTH)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", 2 * WIDTH, WIDTH)
        add(f"{block}.ffn_up.weight", 2 * WIDTH, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, 2 * WIDTH)
    return _close(writer, path)


def write_grid_projector(path: Path, *, seed: int = 5) -> Path:
    """A projector that makes a token of every square of two by two patches."""
    writer = GGUFWriter(str(path), "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen2vl_merger")
    writer.add_bool("clip.use_silu", True)
    for key, value in (
        ("image_size", 56),
        ("patch_size", _PATCH),
        ("embedding_length", _HIDDEN),
        ("feed_forward_length", 2 * _HIDDEN),
        ("projection_dim", WIDTH),
        ("attention.head_count", 2),
        ("block_count", 2),
    ):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, random.normal(0.0, scale, shape).astype(np.float32))

    add("v.patch_embd.weight", _HIDDEN, 3, _PATCH, _PATCH, scale=0.1)
    add("v.patch_embd.weight.1", _HIDDEN, 3, _PATCH, _PATCH, scale=0.1)
    for name in ("v.post_ln", *(f"v.blk.{layer}.{norm}" for layer in range(2) for norm in ("ln1", "ln2"))):
        writer.add_tensor(f"{name}.weight", np.ones(_HIDDEN, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(_HIDDEN, np.float32))
    for layer in range(2):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"{block}.{part}.weight", _HIDDEN, _HIDDEN)
            add(f"{block}.{part}.bias", _HIDDEN)
        add(f"{block}.ffn_up.weight", 2 * _HIDDEN, _HIDDEN)
        add(f"{block}.ffn_up.bias", 2 * _HIDDEN)
        add(f"{block}.ffn_down.weight", _HIDDEN, 2 * _HIDDEN)
        add(f"{block}.ffn_down.bias", _HIDDEN)
    add("mm.0.weight", 4 * _HIDDEN, 4 * _HIDDEN)
    add("mm.0.bias", 4 * _HIDDEN)
    add("mm.2.weight", WIDTH, 4 * _HIDDEN)
    add("mm.2.bias", WIDTH)
    return _close(writer, path)


def _close(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
