"""A model's family, size, quantisation and capabilities, in the words Ollama uses for them.

Sources: Ollama's `fs/ggml`, `types/model/capability.go` and `server/images.go` for the words and the rules,
llama.cpp's `llama_ftype` for the file types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from akashllm.gguf import Header, read_header
from akashllm.server.chat.formats import looks_like_thinking, looks_like_tools
from akashllm.server.chat.go.chat import capabilities as template_capabilities
from akashllm.server.domain import Capability, ModelInfo

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""`general.file_type` -> the name shown."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_FIM = (("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle"))


def parameter_size(count: int) -> str:
    """`7B`, `8.0B`, `3.52M`, `260K`: as Ollama writes a number of parameters; empty for 0."""
    for unit, size, places in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else places}f}{unit}"
    return str(count) if count > 0 else ""


def quantization_level(header: Header) -> str:
    """The quantisation by name; `unknown` where the file does not say.

    Ollama shows F32 files as unknown, because it takes their file type 0 for a missing one. We do not.
    """
    value = header.metadata.get("general.file_type")
    return FILE_TYPES.get(value, "unknown") if isinstance(value, int) else "unknown"


def capabilities(header: Header) -> tuple[Capability, ...]:
    """What the file promises, in the order Ollama lists it. Vision is the engine's to add.

    A model that pools its states embeds and does not complete. Tools and thinking show in the chat template,
    fill-in-the-middle in the vocabulary.
    """
    family = header.text("general.architecture")
    template = header.text("tokenizer.chat_template")
    found: list[Capability] = []
    if f"{family}.pooling_type" in header.metadata:
        return ("embedding",)
    found.append("completion")
    if looks_like_tools(template):
        found.append("tools")
    if any(all(f"tokenizer.ggml.{name}_token_id" in header.metadata for name in names) for names in _FIM):
        found.append("insert")
    if looks_like_thinking(template):
        found.append("thinking")
    return tuple(found)


def capabilities_with(found: Sequence[Capability], template: str) -> tuple[Capability, ...]:
    """What a model can do when a Modelfile's TEMPLATE takes the place of its file's own.

    Tools and thinking are the template's then; insert may be the vocabulary's as well.
    """
    if "completion" not in found:
        return tuple(found)
    able = {*found} - {"tools", "thinking"} | {*template_capabilities(template)}
    return tuple(one for one in _ORDER if one in able)


_ORDER: tuple[Capability, ...] = ("completion", "vision", "tools", "insert", "thinking")


def describe(path: Path, name: str) -> ModelInfo:
    """Everything a `ModelInfo` can be told from a GGUF file alone, all its shards counted.

    The context is the one it was trained for, until an engine says what it can give. Raises `BadModelFile`.
    """
    header = read_header(path)
    family = header.text("general.architecture")
    files = shards(path)
    headers = [header if file == path else read_header(file) for file in files]
    train_context = header.integer(f"{family}.context_length")
    return ModelInfo(
        name=name,
        format="gguf",
        family=family,
        parameters=sum(one.parameters for one in headers),
        quantization=quantization_level(header),
        context=train_context,
        train_context=train_context,
        embedding_length=header.integer(f"{family}.embedding_length"),
        vocab_size=_vocabulary(header, family),
        size=sum(one.file_size for one in headers),
        capabilities=capabilities(header),
        chat_template=header.text("tokenizer.chat_template"),
        bos=_token(header, "bos"),
        eos=_token(header, "eos"),
        metadata=dict(header.scalars),
    )


def shards(path: Path) -> tuple[Path, ...]:
    """The files of a split model that lie beside `path`, in order; `path` alone if it is not split."""
    match = _SHARD.search(path.name)
    if match is None:
        return (path,)
    stem, total = path.name[: match.start()], int(match[2])
    beside = (path.with_name(f"{stem}-{number:05}-of-{match[2]}.gguf") for number in range(1, total + 1))
    return tuple(file for file in beside if file == path or file.exists())


def _vocabulary(header: Header, family: str) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return header.integer(f"{family}.vocab_size") or getattr(tokens, "length", 0)


def _token(header: Header, role: str) -> str:
    """The text of a special token; empty if the vocabulary has none."""
    wanted = header.metadata.get(f"tokenizer.ggml.{role}_token_id")
    if not isinstance(wanted, int) or "tokenizer.ggml.tokens" not in header.metadata:
        return ""
    seen = 0
    for piece in header.array("tokenizer.ggml.tokens"):
        if 0 <= wanted - seen < len(piece):
            return str(piece[wanted - seen])
        seen += len(piece)
    return ""
