"""One model of the catalogue, and the same shape for a model from outside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from akashllm.catalog.shape import Shape

Task = Literal["chat", "embedding", "transcription"]
DType = Literal["bf16", "f16", "f32", "fp8", "mxfp4", "awq", "gptq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where each engine finds the weights; empty: this engine has none.

    bundled         the weights are part of akashllm itself
    ollama          name in Ollama's library
    ollama_quant    quantisation behind that name; empty: Q4_K_M
    hf              repository of safetensors on the Hugging Face hub, read by vLLM
    hf_revision     full commit of that repository; empty: not known here, and nothing was made up
    gguf            repository of GGUF files on the hub, read by llama.cpp
    gguf_file       file name, `{quant}` standing for the quantisation
    ct2             repository in CTranslate2's format, which faster-whisper reads beside llama.cpp
    ct2_revision    full commit of that repository; empty: as above
    gguf_quants     quantisations that repository is known to hold; empty: the usual ones
    quantised       other repositories of the same model by quantisation, such as {"awq": "org/repo"}
    """

    bundled: bool = False
    ollama: str = ""
    ollama_quant: str = ""
    hf: str = ""
    hf_revision: str = ""
    gguf: str = ""
    gguf_file: str = ""
    gguf_revision: str = ""
    gguf_quants: tuple[str, ...] = ()
    ct2: str = ""
    ct2_revision: str = ""
    quantised: tuple[tuple[str, str], ...] = ()

    def repository_for(self, quant: str) -> str:
        """The repository that holds `quant` for vLLM, or an empty string."""
        return dict(self.quantised).get(quant, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything sizing and planning know about a model.

    parameters      as published; `shape.parameters()` must agree within 3 %
    sizes           bytes of the weights by quantisation where they were read, not worked out; the key
                    `ollama` is the file behind the Ollama name
    dtype           how the original weights are stored
    tool_parser     vLLM's `--tool-call-parser`, empty: none known
    reasoning_parser vLLM's `--reasoning-parser`
    default_quant   what llama.cpp and Ollama take when nobody says; empty: Q4_K_M
    cpu             small enough that a GPU would be a waste
    facts           what each figure rests on, by field
    read            the day the facts were read, ISO
    """

    alias: str
    title: str
    family: str
    shape: Shape
    parameters: int
    context: int
    task: Task = "chat"
    aliases: tuple[str, ...] = ()
    modality: tuple[str, ...] = ("text",)
    dtype: DType = "bf16"
    licence: str = ""
    gated: bool = False
    tool_parser: str = ""
    reasoning_parser: str = ""
    chat_format: str = ""
    default_quant: str = ""
    cpu: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    sources: Sources = field(default_factory=Sources)
    facts: tuple[tuple[str, str], ...] = ()
    read: str = ""

    @property
    def billions(self) -> str:
        """Parameters as people write them: 8.0B, 137M."""
        if self.parameters >= 1_000_000_000:
            return f"{self.parameters / 1e9:.1f}B"
        return (
            f"{self.parameters / 1e6:.1f}M" if self.parameters < 10_000_000 else f"{self.parameters // 10**6}M"
        )

    def names(self) -> tuple[str, ...]:
        """The alias first, then its other names."""
        return (self.alias, *self.aliases)
