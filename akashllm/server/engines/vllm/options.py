"""What the service tells vLLM's child beside the model: the same words on both sides of the connection."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Task = Literal["auto", "generate", "embed", "transcribe"]
Chats = Literal["auto", "own", "vllm"]


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How vLLM is to be started.

    gpus              GPUs of each node over which every layer is split (tensor parallelism)
    nodes             nodes over which the layers are spread (pipeline parallelism), joined by Ray; 1: no Ray
    memory            part of each GPU's memory vLLM plans with, 0 to 1; 0: its default
    dtype             of the computation: auto, bfloat16, float16, float32
    task              auto: by the model's kind; embed turns a generative model into one for embeddings;
                      transcribe: the model is a Whisper
    chats             who writes and reads them: this service, or vLLM; auto: see `rendering` and `reading`
    tool_parser       vLLM's parser of tool calls for this model, by name; empty: it has none
    reasoning_parser  likewise for thinking
    adapters          LoRA adapters: the name each is served under (`name:tag`) and its folder
    decoder           the interpreter that has what reads recordings, for a Whisper; empty: vLLM's own
    extra             further engine arguments in vLLM's own words
    """

    gpus: int = 1
    nodes: int = 1
    memory: float = 0.0
    dtype: str = "auto"
    task: Task = "auto"
    chats: Chats = "auto"
    tool_parser: str = ""
    reasoning_parser: str = ""
    adapters: dict[str, str] = {}
    decoder: str = ""
    extra: dict[str, Any] = {}

    def pack(self) -> dict[str, Any]:
        """As `Load.options`."""
        packed: dict[str, Any] = msgspec.to_builtins(self)
        return packed

    @classmethod
    def unpack(cls, options: dict[str, Any]) -> Options:
        """From `Load.options`."""
        return msgspec.convert(options, cls)
