"""Embeddings, where vLLM was started to pool."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams

from akashllm.errors import BadRequest, ContextOverflow
from akashllm.server.domain import Embedding, Embeddings, ModelInfo, Timings
from akashllm.server.engines.vllm.vocabulary import Vocabulary

MAX_INPUTS = 2048


def token_lists(request: Embedding, vocabulary: Vocabulary, info: ModelInfo) -> list[list[int]]:
    """The inputs as tokens that fit. Raises `BadRequest`."""
    if not 1 <= len(request.inputs) <= MAX_INPUTS:
        message = f"{len(request.inputs)} inputs: it has to be from 1 to {MAX_INPUTS}"
        raise BadRequest(message, param="input")
    width = info.embedding_length
    if request.dimensions is not None and not 1 <= request.dimensions <= width:
        message = f"dimensions is {request.dimensions}: it has to be from 1 to {width}"
        raise BadRequest(message, param="dimensions")
    return [_tokens(item, vocabulary, info.context, truncate=request.truncate) for item in request.inputs]


def _tokens(item: str | tuple[int, ...], vocabulary: Vocabulary, limit: int, *, truncate: bool) -> list[int]:
    if isinstance(item, str):
        tokens = vocabulary.tokenize(item, special=False, bos=True)
    else:
        vocabulary.check(item)
        tokens = list(item)
    if not tokens:
        tokens = [max(vocabulary.bos, vocabulary.eos, 0)]
    if len(tokens) > limit:
        if not truncate:
            raise ContextOverflow(len(tokens), limit, param="input")
        # What the model puts at the end of every text (a separator) stays at the end.
        tokens = [*tokens[: limit - 1], tokens[-1]]
    return tokens


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
