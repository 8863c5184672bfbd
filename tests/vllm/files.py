"""The bundled model in the two formats two engines read, with the same numbers: Hugging Face files and a GGUF.

Both are made of the bundled Q8_0 file: its weights, rounded to float16, are what `hf/` holds, and the same
numbers stand in `tiny-f32.gguf`, so that llama.cpp computes with them in float32 (with F16 weights it rounds
activations to float16 as well).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from akashllm.models import TINY

_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_WORDS = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
"""The pre-tokenizer llama.cpp calls `qwen2`."""
_CONTROL = 3
_NORMAL = 1


@dataclass(frozen=True)
class Files:
    """Where the two are."""

    folder: Path
    gguf: Path


def make(root: Path) -> Files:
    """Write both below `root`."""
    reader = gguf.GGUFReader(str(TINY))
    files = Files(root / "hf", root / "tiny-f32.gguf")
    files.folder.mkdir(parents=True)
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        for tensor in reader.tensors
    }
    _write_gguf(reader, weights, files.gguf)
    _write_safetensors(reader, weights, files.folder / "model.safetensors")
    for name, content in (
        ("config.json", _config(reader)),
        ("generation_config.json", {"eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id")}),
        ("tokenizer.json", _tokenizer(reader)),
        ("tokenizer_config.json", _tokenizer_config(reader)),
    ):
        (files.folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    template = _field(reader, "tokenizer.chat_template")
    (files.folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return files


def make_adapter(folder: Path) -> Path:
    """A LoRA adapter of noise, strong enough to change what the model says."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 64,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    random = np.random.default_rng(7)
    reader = gguf.GGUFReader(str(TINY))
    width = _field(reader, "llama.embedding_length")
    head = _field(reader, "llama.rope.dimension_count")
    outputs = {
        "q_proj": head * _field(reader, "llama.attention.head_count"),
        "v_proj": head * _field(reader, "llama.attention.head_count_kv"),
    }
    named: dict[str, NDArray[np.float16]] = {}
    for layer in range(_field(reader, "llama.block_count")):
        for kind, rows in outputs.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{kind}"
            named[f"{name}.lora_A.weight"] = random.normal(0, 0.1, (8, width)).astype(np.float16)
            named[f"{name}.lora_B.weight"] = random.normal(0, 0.1, (rows, 8)).astype(np.float16)
    _save(named, folder / "adapter_model.safetensors")
    return folder


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def _write_gguf(reader: gguf.GGUFReader, weights: dict[str, NDArray[np.float16]], path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, data in weights.items():
        writer.add_tensor(name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_safetensors(reader: gguf.GGUFReader, weights: dict[str, NDArray[np.float16]], path: Path) -> None:
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    named: dict[str, NDArray[np.float16]] = {}
    for name, data in weights.items():
        if name in _WHOLE:
            named[_WHOLE[name]] = data
            continue
        _, number, kind, _ = name.split(".")
        rotated = _unrotate(data, _field(reader, heads[kind])) if kind in heads else data
        named[f"model.layers.{number}.{_LAYER[kind]}.weight"] = rotated
    _save(named, path)


def _save(named: dict[str, NDArray[np.float16]], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, data in named.items():
        header[name] = {"dtype": "F16", "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in named.values():
            file.write(np.ascontiguousarray(data).tobytes())


def _unrotate(weights: NDArray[np.float16], heads: int) -> NDArray[np.float16]:
    """From llama.cpp's order of rotary pairs to Hugging Face's."""
    rows = weights.shape[0]
    return weights.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(weights.shape)


def _config(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_act": "silu",
        "vocab_size": _field(reader, "llama.vocab_size"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "hidden_size": _field(reader, "llama.embedding_length"),
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "num_attention_heads": _field(reader, "llama.attention.head_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "head_dim": _field(reader, "llama.rope.dimension_count"),
        "rms_norm_eps": _field(reader, "llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base")},
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _tokenizer(reader: gguf.GGUFReader) -> dict[str, Any]:
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _field(reader, "tokenizer.ggml.token_type")
    plain = {token: number for number, token in enumerate(tokens) if kinds[number] == _NORMAL}
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[number] == _CONTROL,
        }
        for number, token in enumerate(tokens)
        if kinds[number] != _NORMAL
    ]
    in_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, in_bytes]},
        "post_processor": None,
        "decoder": in_bytes,
        "model": {
            "type": "BPE",
            "vocab": plain,
            "merges": [merge.split(" ") for merge in _field(reader, "tokenizer.ggml.merges")],
        },
    }


def _tokenizer_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": tokens[_field(reader, "tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[_field(reader, "tokenizer.ggml.padding_token_id")],
        "model_max_length": _field(reader, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
