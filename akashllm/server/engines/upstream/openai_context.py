"""Ollama's `context` over an upstream that has none.

Ollama says that it is "an encoding of the conversation", to be sent back as it came. Here it is the bytes of
the conversation's messages, one JSON object a line, so that it grows at its end as a list of tokens would.
Images are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import Message


class _Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


_decoder = msgspec.json.Decoder(_Said)


def remember(messages: Iterable[Message]) -> tuple[int, ...]:
    """The numbers that stand for messages."""
    lines = (msgspec.json.encode((message.role, message.content)) + b"\n" for message in messages)
    return tuple(b"".join(lines))


def remembered(context: tuple[int, ...]) -> tuple[Message, ...]:
    """The messages that numbers stand for. Raises `BadRequest` for numbers that came from elsewhere."""
    if not context:
        return ()
    try:
        said = [_decoder.decode(line) for line in bytes(context).split(b"\n") if line]
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            "context is not from an answer of this service: send back what an answer carried", param="context"
        ) from error
    return tuple(Message(role=one.role, content=one.content) for one in said)
