"""Embeddings, where vLLM was started to pool."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams

from akashllm.server.domain import Embedding, Embeddings, Timings


async def embed(engine: Any, request: Embedding, inputs: Sequence[list[int]]) -> Embeddings:
    """One vector an input; vLLM batches them itself."""
    began = perf_counter_ns()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_one(engine, tokens, f"{request.id}-{place}"))
                for place, tokens in enumerate(inputs)
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return Embeddings(
        vectors=tuple(_shape(task.result(), request) for task in tasks),
        prompt_tokens=sum(map(len, inputs)),
        timings=Timings(prompt=perf_counter_ns() - began),
    )


async def _one(engine: Any, tokens: list[int], name: str) -> list[float]:
    parameters = PoolingParams(task="embed", use_activation=False)
    vector: list[float] = []
    async for output in engine.encode(tokens_input(tokens), parameters, name):
        vector = output.outputs.data.tolist()
    return vector


def _shape(vector: list[float], request: Embedding) -> tuple[float, ...]:
    cut = vector[: request.dimensions]
    if request.normalize:
        length = math.sqrt(math.fsum(value * value for value in cut))
        if length > 0:
            cut = [value / length for value in cut]
    return tuple(cut)
