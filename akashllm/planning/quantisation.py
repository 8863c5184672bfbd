"""Which quantisation an engine runs: the one asked for, or the usual one."""

from __future__ import annotations

from akashllm.catalog import Model
from akashllm.errors import UsageError
from akashllm.plan import EngineName
from akashllm.planning.asked import shown
from akashllm.sizing import GGUF, SAFETENSORS, Quant


def quant_for(model: Model, engine: EngineName, asked: str | None, tag: str = "") -> Quant:
    """The quantisation of a plan; `tag` is one named with the model (`hf.co/org/repo:Q8_0`)."""
    wanted = asked or (tag if engine != "vllm" else "")
    if model.task == "transcription" and engine == "llamacpp":
        return _as_stored(model, wanted)
    usual = _usual(model, engine)
    table = SAFETENSORS if engine == "vllm" else {**GGUF, **_measured(model)}
    if not wanted:
        return table[usual.lower()]
    quant = table.get(wanted.lower())
    if quant is None:
        other = GGUF if engine == "vllm" else SAFETENSORS
        why = (
            f"{engine} does not run {shown(wanted)}"
            if wanted.lower() in other
            else f"{shown(wanted)} is not known"
        )
        raise UsageError(
            f"the quantisation: {why}", hint=f"{engine} runs {', '.join(each.name for each in table.values())}"
        )
    if engine == "vllm":
        _check_repository(model, quant)
    elif model.sources.gguf_quants and quant.name not in model.sources.gguf_quants:
        raise UsageError(
            f"{model.sources.gguf} has no {quant.name} of {model.alias}",
            hint=f"it has {', '.join(model.sources.gguf_quants)}",
        )
    return quant


def _as_stored(model: Model, wanted: str) -> Quant:
    """Of a Whisper for faster-whisper: its repositories hold 16 bits, and processors compute in 8 of them."""
    if wanted and wanted.lower() != "f16":
        raise UsageError(
            f"the quantisation: {model.alias} is not had in {shown(wanted)}",
            hint="leave --quant out: the weights are stored in 16 bits, and a CPU computes with 8 by itself",
        )
    return GGUF["f16"]


def _usual(model: Model, engine: EngineName) -> str:
    if engine == "vllm":
        return model.dtype
    if engine == "ollama" and model.sources.ollama_quant:
        return model.sources.ollama_quant
    return model.default_quant or "Q4_K_M"


def _measured(model: Model) -> dict[str, Quant]:
    """Mixtures that no table has, from the size of the file itself."""
    found = {}
    for name, size in model.sizes:
        if name != "ollama" and name.lower() not in GGUF:
            bits = size * 8 / model.parameters
            found[name.lower()] = Quant(name, "gguf", bits, bits, bits)
    return found


def _check_repository(model: Model, quant: Quant) -> None:
    if quant.name == model.dtype or (quant.name in {"bf16", "f16"} and model.dtype in {"bf16", "f16", "f32"}):
        return
    if not model.sources.repository_for(quant.name):
        have = ", ".join((model.dtype, *dict(model.sources.quantised)))
        raise UsageError(
            f"no repository with {quant.name} weights of {model.alias} is known; known: {have}",
            hint="name one as the model, for example --model org/repo-AWQ",
        )
