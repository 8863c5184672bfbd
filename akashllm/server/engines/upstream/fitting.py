"""Making what is too long fit, where the upstream only says that it is: messages dropped, inputs cut."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from akashllm.errors import ContextOverflow, ServiceError
from akashllm.server.domain import ChatPrompt, Embedding, Embeddings, Generation, Message

_SPARE = 0.9
"""Tokens are not spread evenly over the text: aim a little below."""


def fewer_messages(request: Generation, error: ServiceError) -> Generation | None:
    """The request without its oldest messages, system messages and the last one kept; None if none can go."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt) or not prompt.drop_oldest:
        return None
    total = sum(map(_size, prompt.messages))
    surplus = total * (1 - _share(error))
    kept: list[Message] = []
    dropped = 0.0
    for position, message in enumerate(prompt.messages):
        last = position == len(prompt.messages) - 1
        if message.role == "system" or last or (dropped > 0 and dropped >= surplus):
            kept.append(message)
        else:
            dropped += _size(message)
    if not dropped:
        return None
    while len(kept) > 1 and kept[_first(kept)].role == "tool":
        del kept[_first(kept)]
    return msgspec.structs.replace(request, prompt=msgspec.structs.replace(prompt, messages=tuple(kept)))


def _first(messages: list[Message]) -> int:
    """Where the conversation begins. A tool's result whose call was dropped means nothing to a template."""
    return next((place for place, one in enumerate(messages[:-1]) if one.role != "system"), len(messages) - 1)


def shorter_inputs(request: Embedding, error: ServiceError) -> Embedding | None:
    """The request with its longest inputs cut at their end; None if it does not allow that."""
    if not request.truncate:
        return None
    longest = max(map(len, request.inputs), default=0)
    limit = int(longest * _share(error))
    if limit < 1:
        return None
    return msgspec.structs.replace(request, inputs=tuple(one[:limit] for one in request.inputs))


def _share(error: ServiceError) -> float:
    """The part that may stay."""
    if isinstance(error, ContextOverflow) and error.prompt_tokens > error.context > 0:
        return _SPARE * error.context / error.prompt_tokens
    return 0.5


def _size(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return 16 + len(message.content) + len(message.thinking) + calls


def finished(found: Embeddings, request: Embedding) -> Embeddings:
    """The vectors cut to the dimensions that were asked for, and of length 1 if that was."""
    vectors: Iterable[tuple[float, ...]] = found.vectors
    if request.dimensions is not None:
        vectors = [vector[: request.dimensions] for vector in vectors]
    if request.normalize:
        vectors = map(_unit, vectors)
    return msgspec.structs.replace(found, vectors=tuple(vectors))


def _unit(vector: tuple[float, ...]) -> tuple[float, ...]:
    length = math.hypot(*vector)
    if not length or abs(length - 1) < 1e-6:
        return vector
    return tuple(value / length for value in vector)
