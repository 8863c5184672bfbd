"""A model's shape from what its files say: `config.json`, or the header of a GGUF file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from akashllm.catalog.model import DType
from akashllm.catalog.shape import Shape
from akashllm.errors import UsageError
from akashllm.gguf import Header

LIMITS = {
    "layers": 2048,
    "hidden": 1 << 20,
    "heads": 4096,
    "kv_heads": 4096,
    "head_size": 1 << 16,
    "ffn": 1 << 22,
    "vocab": 1 << 24,
    "context": 1 << 27,
}
"""No model is near these: a larger figure is junk or an attack."""

_FLAGS = {
    "layers": "--layers",
    "hidden": "--hidden",
    "heads": "--heads",
    "kv_heads": "--kv-heads",
    "head_size": "--head-size",
    "vocab": "--vocab",
    "context": "--context",
}

_GGUF_FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
"""Every n-th layer sees the whole context, fixed by architecture (llama.cpp llama-model.cpp, set_swa_pattern).
Where it is not known here the window is left out, which errs on the large side."""


def from_config(config: Any, where: str) -> tuple[Shape, int]:
    """(shape, context in tokens) of a `config.json`; a missing or absurd figure is asked for by flag."""
    if not isinstance(config, Mapping):
        raise UsageError(f"{where} is no JSON object")
    nested = (config.get(key) for key in ("text_config", "llm_config"))
    text = next((part for part in nested if isinstance(part, Mapping)), config)
    read = _Figures(text, where)
    hidden = read.need("hidden", "hidden_size", "n_embd", "d_model")
    heads = read.need("heads", "num_attention_heads", "n_head", "decoder_attention_heads")
    kv_heads = read.maybe("kv_heads", "num_key_value_heads") or heads
    layers = read.need("layers", "num_hidden_layers", "n_layer", "decoder_layers")
    window, full, silent = _windows(text, layers)
    kv_rank = read.maybe("hidden", "kv_lora_rank")
    shape = Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=read.maybe("head_size", "head_dim") or max(1, hidden // heads),
        ffn=read.maybe("ffn", "intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim") or 4 * hidden,
        vocab=read.need("vocab", "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        experts=read.maybe("heads", "num_local_experts", "num_experts", "n_routed_experts"),
        experts_used=read.maybe("heads", "num_experts_per_tok", "num_experts_per_token"),
        expert_ffn=read.maybe("ffn", "moe_intermediate_size"),
        shared_ffn=read.maybe("heads", "n_shared_experts") * read.maybe("ffn", "moe_intermediate_size"),
        dense_layers=read.maybe("layers", "first_k_dense_replace"),
        kv_rank=kv_rank,
        q_rank=read.maybe("hidden", "q_lora_rank") if kv_rank else 0,
        rope_size=read.maybe("head_size", "qk_rope_head_dim") if kv_rank else 0,
        nope_size=read.maybe("head_size", "qk_nope_head_dim") if kv_rank else 0,
        value_size=read.maybe("head_size", "v_head_dim") if kv_rank else 0,
        window=window,
        full_layers=full,
        cross_layers=silent,
        kind="encoder" if _is_encoder(config) else "decoder",
    )
    if shape.experts and not shape.expert_ffn:
        shape = dataclasses.replace(shape, expert_ffn=shape.ffn)
    return shape, read.need("context", "max_position_embeddings", "n_positions", "max_sequence_length")


def dtype_of(config: Mapping[str, Any], where: str) -> DType:
    """How the weights of a repository are stored, in vLLM's words."""
    quantised = config.get("quantization_config")
    if isinstance(quantised, Mapping):
        method = str(quantised.get("quant_method", "")).lower()
        known: dict[str, DType] = {"fp8": "fp8", "awq": "awq", "gptq": "gptq", "mxfp4": "mxfp4"}
        if method in known:
            return known[method]
        if method == "compressed-tensors":
            return "gptq" if '"num_bits": 4' in json.dumps(quantised) else "fp8"
        raise UsageError(
            f"{where} is quantised by {method or 'an unnamed method'}, whose size is not known",
            hint="use a repository in bf16, fp8, awq or gptq",
        )
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else {}
    assert isinstance(text, Mapping)
    name = str(
        config.get("torch_dtype") or config.get("dtype") or text.get("torch_dtype") or text.get("dtype") or ""
    )
    names: dict[str, DType] = {"float16": "f16", "float32": "f32"}
    return names.get(name, "bf16")


def from_gguf(header: Header, where: str) -> tuple[Shape, int]:
    """(shape, context in tokens) of a GGUF header."""
    family = header.text("general.architecture")
    read = _Figures({key.removeprefix(f"{family}."): header.integer(key) for key in header.metadata}, where)
    hidden, heads = read.need("hidden", "embedding_length"), read.need("heads", "attention.head_count")
    layers = read.need("layers", "block_count")
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    window = read.maybe("context", "attention.sliding_window")
    every = _GGUF_FULL_EVERY.get(family, 0)
    kv_rank = read.maybe("hidden", "attention.kv_lora_rank")
    shape = Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=read.maybe("kv_heads", "attention.head_count_kv") or heads,
        head_size=read.maybe("head_size", "attention.key_length") or max(1, hidden // heads),
        ffn=read.maybe("ffn", "feed_forward_length") or 4 * hidden,
        vocab=embedding.shape[-1] if embedding and embedding.shape else read.need("vocab", "vocab_size"),
        tied=tied,
        experts=read.maybe("heads", "expert_count"),
        experts_used=read.maybe("heads", "expert_used_count"),
        expert_ffn=read.maybe("ffn", "expert_feed_forward_length"),
        kv_rank=kv_rank,
        rope_size=read.maybe("head_size", "rope.dimension_count") if kv_rank else 0,
        window=window if every else 0,
        full_layers=layers // every if every and window else 0,
        kind="encoder" if family.endswith("bert") else "decoder",
    )
    return shape, read.need("context", "context_length")


class _Figures:
    """Whole numbers from a mapping that nobody vouches for."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data = data
        self._where = where

    def maybe(self, what: str, *keys: str) -> int:
        """The first of `keys` that holds a number; 0 if none does."""
        for key in keys:
            value = self._data.get(key)
            if isinstance(value, bool) or not isinstance(value, int) or value == 0:
                continue
            if not 0 < value <= LIMITS[what]:
                raise UsageError(f"{self._where} says {key} is {value}, which no model has")
            return value
        return 0

    def need(self, what: str, *keys: str) -> int:
        """As `maybe`, but its absence is an error that names the flag."""
        value = self.maybe(what, *keys)
        if not value:
            raise UsageError(
                f"{self._where} does not say {keys[0]}",
                hint=f"give {_FLAGS.get(what, '--' + what)} and the model's other figures by flags",
            )
        return value


def _windows(text: Mapping[str, Any], layers: int) -> tuple[int, int, int]:
    """(window, layers that see everything, layers that keep no cache)."""
    window = text.get("sliding_window")
    size = window if type(window) is int and 0 < window <= LIMITS["context"] else 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        linear = sum(kind == "linear_attention" for kind in kinds)
        sliding = sum(kind in {"sliding_attention", "chunked_attention"} for kind in kinds)
        if not size and isinstance(text.get("attention_chunk_size"), int):
            size = max(0, text["attention_chunk_size"])
        if sliding and size:
            return size, layers - linear - sliding, linear
        return 0, 0, linear
    pattern = text.get("sliding_window_pattern")
    if size and isinstance(pattern, int) and 1 < pattern <= layers:
        return size, layers // pattern, 0
    # A bare window may be switched off elsewhere (`use_sliding_window`): without a pattern it is left out.
    return 0, 0, 0


def _is_encoder(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    return "Bert" in first or "Roberta" in first
