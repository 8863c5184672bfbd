"""What a PARAMETER of a Modelfile may be called, and what type its value has.

The names are those of Ollama's `api.Options` of today and of the Modelfiles that are around; the same as a
request's options (`wire/ollama/options.py`), which a test holds together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from akashllm.errors import BadRequest

Kind = Literal["integer", "float32", "boolean", "array"]

KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(
        (
            *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "mirostat", "num_ctx", "num_batch"),
            *("num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            *("top_p", "min_p", "tfs_z", "typical_p", "temperature", "repeat_penalty", "presence_penalty"),
            *("frequency_penalty", "mirostat_tau", "mirostat_eta"),
        ),
        "float32",
    ),
    **dict.fromkeys(
        (
            *("penalize_newline", "use_mmap", "numa", "use_mlock", "low_vram", "f16_kv", "logits_all"),
            "vocab_only",
        ),
        "boolean",
    ),
    "stop": "array",
}
"""Type by name."""

DROPPED: Final = frozenset({"low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa", "tfs_z"})
"""Read and forgotten: no engine has them any more."""

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_FLOAT: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def written(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """PARAMETERs as they are written, typed. A repeated `stop` adds up, of others the last one counts.

    Raises `BadRequest` in Ollama's words (`api.FormatParams`).
    """
    found: dict[str, Any] = {}
    for name, text in pairs:
        kind = KINDS.get(name)
        if kind is None:
            raise BadRequest(f"unknown parameter '{name[:64]}'", param="modelfile")
        if kind == "array":
            found[name] = [*found.get(name, ()), text]
        elif name not in DROPPED:
            found[name] = _typed(kind, text)
        else:
            _typed(kind, text)
    return found


def _typed(kind: Kind, text: str) -> Any:
    if kind == "integer" and re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
        value = int(text)
        if value in range(-(1 << 63), 1 << 63):
            return value
    if kind == "float32" and _FLOAT.fullmatch(text):
        return float(text)
    if kind == "boolean" and text in _TRUE | _FALSE:
        return text in _TRUE
    shown = {"integer": "int", "float32": "float", "boolean": "bool"}[kind]
    raise BadRequest(f"invalid {shown} value [{text[:64]}]", param="modelfile")


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The `parameters` object of a request, typed. Null says nothing; a whole number does for a fraction.

    Names nobody knows are kept, as in Ollama. Raises `BadRequest` for values of another type.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None and name not in DROPPED:
            found[name] = _checked(name, value)
    return found


def _checked(name: str, value: Any) -> Any:
    match KINDS.get(name):
        case "array":
            texts = [value] if isinstance(value, str) else value
            if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
                return texts
        case "boolean":
            if isinstance(value, bool):
                return value
        case "integer":
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 63:
                return int(value)
        case "float32":
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
                return float(value)
        case None:
            listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
            if listed or isinstance(value, str | int | float):
                return value
    kind = KINDS.get(name, "a number, a text or a list of texts")
    raise BadRequest(f'parameter "{name[:64]}" must be of type {kind}', param="parameters")
