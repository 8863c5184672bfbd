"""Starting vLLM in this process: from a `Load` order to a running engine and what is known of its model."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from akashllm.errors import AkashllmError
from akashllm.server.domain import Capability, ModelInfo
from akashllm.server.engines.blame import ORDER, blame
from akashllm.server.engines.frames import Load
from akashllm.server.engines.prompts import MAX_LOGPROBS
from akashllm.server.engines.vllm import facts
from akashllm.server.engines.vllm.cluster import ClusterError, gather
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.vocabulary import Vocabulary
from akashllm.server.models.folder import describe, weights

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
}
"""What vLLM is to find in its environment: it reports nothing, fetches nothing, forks nothing."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""


class Refusal(Exception):
    """It cannot be started like this, and trying again would not help. `fault`: whose that is (`blame`)."""

    def __init__(self, message: str, *, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


def prepare_environment() -> None:
    """Set what is not set. To be called before vLLM is imported. Raises `Refusal` where there is none."""
    if find_spec("vllm") is None:
        raise Refusal("this interpreter has no vLLM: set AKASHLLM_CHILD_PYTHON to one that has it", fault=ORDER)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_machine(order: Load, options: Options) -> int:
    """See whether this machine can run it: bytes of GPU memory it will take. Raises `Refusal`."""
    try:
        return facts.check(options, weights(Path(order.model)))
    except facts.Unfit as unfit:
        raise Refusal(str(unfit), fault=unfit.fault) from unfit


def start(order: Load, options: Options) -> Any:
    """A running `AsyncLLM`. Raises `Refusal`, or whatever vLLM does if its core does not come up."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from akashllm.server.engines.vllm.stats import Counts

    if options.nodes > 1:
        try:
            gather(options.nodes, options.gpus, say=_say)
        except ClusterError as error:
            raise Refusal(str(error)) from error
    wanted = arguments(order, options, _known_arguments(AsyncEngineArgs))
    try:
        config = AsyncEngineArgs(**wanted).create_engine_config()
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        raise Refusal(f"vLLM refuses these settings: {_first(error)}", fault=blame(_first(error))) from error
    made: list[Counts] = []

    def counts(vllm_config: Any, engine_index: int = 0) -> Counts:
        made.append(Counts(vllm_config, engine_index))
        return made[-1]

    engine = AsyncLLM.from_vllm_config(config, stat_loggers=[counts], disable_log_stats=True)
    return engine, made[0]


def arguments(order: Load, options: Options, known: Iterable[str]) -> dict[str, Any]:
    """The engine arguments of an order. `known` are the names vLLM has. Raises `Refusal`."""
    known = frozenset(known)
    if unknown := sorted(options.extra.keys() - known):
        raise Refusal(f"vLLM has no engine argument named {', '.join(unknown)}", fault=ORDER)
    if options.extra.get("trust_remote_code"):
        raise Refusal(
            "code out of a model's repository is never run here: leave trust_remote_code out", fault=ORDER
        )
    wanted: dict[str, Any] = {
        "model": order.model,
        "served_model_name": order.name,
        "dtype": options.dtype,
        "tensor_parallel_size": options.gpus,
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "trust_remote_code": False,
    }
    if order.context:
        wanted["max_model_len"] = order.context
    if options.memory:
        wanted["gpu_memory_utilization"] = options.memory
    if options.nodes > 1:
        wanted |= {"pipeline_parallel_size": options.nodes, "distributed_executor_backend": "ray"}
    if options.task == "embed":
        wanted |= {"runner": "pooling", "convert": "embed"}
    elif options.task in {"generate", "transcribe"}:
        wanted["runner"] = "generate"
    if options.adapters:
        wanted |= {
            "enable_lora": True,
            "max_loras": len(options.adapters),
            "max_lora_rank": _rank(Path(folder) for folder in options.adapters.values()),
        }
    return wanted | options.extra


def adapters(options: Options) -> dict[str, Any]:
    """VLLM's words for each adapter, by the name it is served under."""
    from vllm.lora.request import LoRARequest

    return {
        name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=folder)
        for number, (name, folder) in enumerate(sorted(options.adapters.items()), 1)
    }


def vocabulary_of(engine: Any) -> Vocabulary:
    """The vocabulary of a running engine's model."""
    config = engine.model_config
    ends = (config.try_get_generation_config() or {}).get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends] if isinstance(ends, int) else []
    return Vocabulary(engine.renderer.get_tokenizer(), config.get_vocab_size(), listed)


def information(order: Load, engine: Any, vocabulary: Vocabulary, *, embeds: bool, vram: int = 0) -> ModelInfo:
    """What is known of the model now that it runs. `vram`: bytes of GPU memory it took."""
    config = engine.model_config
    try:
        info = describe(Path(order.model), order.name)
    except (AkashllmError, OSError):
        info = ModelInfo(name=order.name, format="safetensors")
    capabilities: tuple[Capability, ...] = ("embedding",) if embeds else info.capabilities
    if not embeds and vocabulary.infill is not None and "insert" not in capabilities:
        capabilities = (*capabilities[:2], "insert", *capabilities[2:])
    return msgspec.structs.replace(
        info,
        context=config.max_model_len,
        train_context=info.train_context or config.max_model_len,
        slots=order.slots,
        memory=vram or info.size,
        vram=vram,
        vocab_size=vocabulary.size,
        embedding_length=info.embedding_length or config.get_hidden_size(),
        capabilities=capabilities or (("embedding",) if embeds else ("completion",)),
        bos=info.bos or vocabulary.text(vocabulary.bos),
        eos=info.eos or vocabulary.text(vocabulary.eos),
    )


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _known_arguments(arguments_class: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(arguments_class)]


def _rank(folders: Iterable[Path]) -> int:
    """The smallest rank vLLM takes that holds every adapter. Raises `Refusal`."""
    largest = 0
    for folder in folders:
        try:
            rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
            largest = max(largest, int(rank))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal(f"there is no LoRA adapter in {folder}: {_first(error)}", fault=ORDER) from error
    found = next((rank for rank in _RANKS if rank >= largest), None)
    if found is None:
        raise Refusal(f"a LoRA adapter has rank {largest}: vLLM takes up to {_RANKS[-1]}", fault=ORDER)
    return found


def _first(error: BaseException) -> str:
    """The first line of an error that says something; pydantic's first says only how many there are."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("Value error")), lines[0] if lines else "")
    return (told or type(error).__name__)[:500]
