"""What a route needs to know of a request besides what it asks of the engine."""

from __future__ import annotations

import secrets
import time

import msgspec

from akashllm.server.domain import Generation


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client, answered by one or more generations.

    id               of the response, unique: `chatcmpl-...` or `cmpl-...`
    created          seconds since the epoch
    model            the name the client typed, which the response repeats
    generations      one a prompt; only completions have more than one
    n                choices to return for each prompt; a generation may make more (`best_of`)
    include_usage    whether a stream ends with a usage chunk
    logprobs         whether the answer shows log probabilities
    """

    id: str
    created: int
    model: str
    generations: tuple[Generation, ...]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False

    @property
    def best_of(self) -> bool:
        """Whether choices are left out of the answer."""
        return self.generations[0].n > self.n


def new_id(prefix: str) -> str:
    """A name for a response that no other response has."""
    return f"{prefix}-{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())
