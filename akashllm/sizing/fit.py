"""Which GPUs hold a need: counts of one, two, four or eight within one machine, cheapest first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from akashllm.catalog.gpus import Gpu, with_article
from akashllm.catalog.model import Model
from akashllm.catalog.prices import Prices
from akashllm.plan import EngineName, GpuChoice
from akashllm.sizing.memory import VLLM_SHARE, Need
from akashllm.sizing.quants import Quant

COUNTS = (1, 2, 4, 8)
"""A lease's GPUs come from one node, and nodes have at most eight."""

SPLIT = {1: 1.0, 2: 2.5, 4: 4.0, 8: 6.0}
"""How much dearer a split counts: nodes with several free GPUs are scarce and each link costs speed."""

ENGINE_COMPUTE: dict[EngineName, tuple[int, int]] = {"vllm": (7, 5), "llamacpp": (7, 5), "ollama": (5, 0)}
"""vLLM's wheels and our llama.cpp image are built for 7.5 and newer; Ollama's documentation says 5.0."""

DRIVER_GIB = 0.43
"""What the driver keeps of a GPU: vLLM's logs see 79.22 GiB of an H100's 81,559 MiB (its pull request 10511)
and 23.58 GiB of an RTX 3090's 24,576 MiB (14447)."""

FP8_BLOCK = 128
"""Models published in fp8 have a scale for each block of so many rows; vLLM loads no expert that a split cuts
within one (quantization/fp8.py, create_weights)."""

LLAMACPP_KEPT_FREE_GIB = 0.1
"""llama.cpp allocates what it needs and no more; a little air for fragmentation."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One GPU kind and count that holds the need.

    needs_gib   what each GPU must hold
    has_gib     what the engine may use of each GPU
    usd_hour    for all `count`; None: nobody has named a price
    """

    gpu: Gpu
    count: int
    needs_gib: float
    has_gib: float
    usd_hour: float | None
    highest_usd_hour: float | None

    def choice(self) -> GpuChoice:
        """The same in the plan's words."""
        return GpuChoice(model=self.gpu.model, ram_gib=self.gpu.ram_gib, count=self.count)


def usable_gib(gpu: Gpu, engine: EngineName) -> float:
    """Memory of one GPU that `engine` may fill."""
    free = gpu.memory_gib - DRIVER_GIB
    return free * VLLM_SHARE if engine == "vllm" else free - LLAMACPP_KEPT_FREE_GIB


def unfit(gpu: Gpu, quant: Quant, engine: EngineName) -> str:
    """Why this GPU cannot run the engine or the quantisation at all; empty: it can."""
    engine_floor = ENGINE_COMPUTE[engine]
    has = f"{with_article(gpu.model)} has {gpu.compute}"
    if gpu.capability < engine_floor:
        return f"{engine} needs compute capability {_dotted(engine_floor)}, {has}"
    if engine == "vllm" and gpu.capability < quant.compute:
        return f"{quant.name} needs compute capability {_dotted(quant.compute)}, {has}"
    return ""


def counts_for(model: Model, quant: Quant, engine: EngineName) -> tuple[int, ...]:
    """GPU counts over which the model can be split: its heads and experts for vLLM, its layers for the others.

    faster-whisper keeps a recording on one GPU.
    """
    if model.task == "transcription" and engine != "vllm":
        return (1,)
    if engine == "vllm":
        return tuple(
            count for count in COUNTS if not model.shape.heads % count and not _cuts(model, quant, count)
        )
    return tuple(count for count in COUNTS if count <= model.shape.layers)


def _cuts(model: Model, quant: Quant, count: int) -> bool:
    """Whether a split of the experts over `count` GPUs cuts within a block."""
    block = FP8_BLOCK if quant.name == "fp8" else 1
    return count > 1 and model.shape.experts > 0 and model.shape.expert_ffn % (count * block) != 0


def fits(
    model: Model,
    need: Need,
    quant: Quant,
    *,
    engine: EngineName,
    gpus: Iterable[Gpu],
    prices: Prices,
    nodes: int = 1,
) -> tuple[Fit, ...]:
    """Every GPU and count a node that holds the need, best first; those without a price come last.

    Prices are those of one node.
    """
    found = []
    for gpu in gpus:
        if unfit(gpu, quant, engine):
            continue
        for count in counts_for(model, quant, engine):
            needs = need.per_gpu_gib(count, model.shape.kv_heads, engine, nodes)
            if needs <= usable_gib(gpu, engine):
                price = prices.of(gpu.model, gpu.ram_gib)
                found.append(
                    Fit(
                        gpu,
                        count,
                        needs,
                        usable_gib(gpu, engine),
                        price.usual * count if price else None,
                        price.highest * count if price else None,
                    )
                )
    return tuple(sorted(found, key=rank))


def rank(fit: Fit) -> tuple[float, int, int, str]:
    """The order of preference: what it costs, weighed by how many GPUs it takes."""
    cost = math.inf if fit.usd_hour is None else round(fit.usd_hour * SPLIT[fit.count], 4)
    return cost, fit.count, fit.gpu.memory_mib, fit.gpu.model


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
