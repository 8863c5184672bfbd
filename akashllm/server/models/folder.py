"""What a folder of Hugging Face files says of its model: its configuration, its weights' headers, its template.

Sources: transformers' file names, the safetensors format (eight bytes of length, then JSON of that length).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from akashllm.errors import BadModelFile
from akashllm.server.chat.formats import looks_like_thinking, looks_like_tools
from akashllm.server.domain import Capability, ModelInfo

_LENGTH = 8
_LARGEST = 64 << 20
"""Bytes of a JSON file or header that are read."""
_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_PACKED = frozenset({"I32", "I64", "U8", "U32"})
"""Types that hold several weights in one number, or none."""


def describe(folder: Path, name: str) -> ModelInfo:
    """Everything a `ModelInfo` can be told from the files alone. Raises `BadModelFile`."""
    config = _json(folder / "config.json")
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else config
    family = str(config.get("model_type", ""))
    context = next((int(text[key]) for key in _CONTEXTS if isinstance(text.get(key), int)), 0)
    hidden = text.get("hidden_size")
    vocabulary = text.get("vocab_size")
    template, tool_template = _templates(folder)
    tokens = _optional(folder / "tokenizer_config.json")
    metadata: dict[str, Any] = {
        "general.architecture": family,
        "general.name": name,
        f"{family}.context_length": context,
        **{
            f"{family}.{ours}": text[theirs]
            for ours, theirs in _FIGURES.items()
            if isinstance(text.get(theirs), int | float) and not isinstance(text.get(theirs), bool)
        },
        **({"tokenizer.chat_template": template} if template else {}),
        **({"tokenizer.chat_template.tool_use": tool_template} if tool_template else {}),
    }
    return ModelInfo(
        name=name,
        format="safetensors",
        family=family,
        parameters=sum(_parameters(file) for file in sorted(folder.glob("*.safetensors"))),
        quantization=_quantization(config),
        context=context,
        train_context=context,
        embedding_length=hidden if isinstance(hidden, int) else 0,
        vocab_size=vocabulary if isinstance(vocabulary, int) else 0,
        size=weights(folder),
        capabilities=_capabilities(folder, config, template),
        chat_template=template,
        bos=_token(tokens, "bos_token"),
        eos=_token(tokens, "eos_token"),
        metadata=metadata,
    )


def weights(folder: Path) -> int:
    """Bytes of the weights; safetensors where there are some."""
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if size := sum(file.stat().st_size for file in folder.glob(pattern)):
            return size
    return 0


_FIGURES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "rope.freq_base": "rope_theta",
}
"""GGUF's names for what `config.json` calls otherwise."""


def _capabilities(folder: Path, config: Mapping[str, Any], template: str) -> tuple[Capability, ...]:
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    generates = any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names)
    if (folder / "modules.json").exists() or (names and not generates):
        return ("embedding",)
    found: list[Capability] = ["completion"]
    if looks_like_tools(template):
        found.append("tools")
    if looks_like_thinking(template):
        found.append("thinking")
    return tuple(found)


def _quantization(config: Mapping[str, Any]) -> str:
    quantised = config.get("quantization_config") or config.get("compression_config")
    if isinstance(quantised, dict):
        method = str(quantised.get("quant_method", "")).upper()
        bits = quantised.get("bits")
        return f"{method}-{bits}bit" if isinstance(bits, int) else method
    return _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype") or ""), "unknown")


def _templates(folder: Path) -> tuple[str, str]:
    """The chat template and the one for tools, if that is another. A file of its own wins."""
    found: dict[str, str] = {}
    inside = _optional(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(inside, str):
        found["default"] = inside
    elif isinstance(inside, list):
        for item in inside:
            if isinstance(item, dict) and isinstance(item.get("template"), str):
                found[str(item.get("name"))] = item["template"]
    alone = folder / "chat_template.jinja"
    if alone.is_file() and alone.stat().st_size <= _LARGEST:
        found["default"] = alone.read_text(encoding="utf-8", errors="replace")
    return found.get("default", ""), found.get("tool_use", "")


def _token(config: Mapping[str, Any], role: str) -> str:
    token = config.get(role)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _parameters(file: Path) -> int:
    """Weights in a safetensors file; 0 where its header cannot be read."""
    with file.open("rb") as opened:
        start = opened.read(_LENGTH)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH else 0
        body = opened.read(length) if 0 < length <= _LARGEST else b""
    try:
        header = msgspec.json.decode(body)
        return sum(
            prod(entry["shape"])
            for key, entry in header.items()
            if key != "__metadata__" and entry["dtype"] not in _PACKED
        )
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return 0


def _optional(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise BadModelFile(f"{path.name} is larger than any configuration")
        value = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise BadModelFile(f"{path.name} cannot be read: {error}", hint="fetch the model again") from error
    if not isinstance(value, dict):
        raise BadModelFile(f"{path.name} is not a JSON object", hint="fetch the model again")
    return value
