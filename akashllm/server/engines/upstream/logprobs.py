"""Log probabilities in the three shapes upstreams have for them."""

from __future__ import annotations

import math
import re
from typing import Any

from akashllm.server.domain import Alternative, TokenLogprob
from akashllm.server.engines.upstream.payload import entries

UNKNOWN = -1
"""The id of a token whose upstream tells only its text."""

_BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
_IMPOSSIBLE = -9999.0


def listed(content: object, top: int) -> tuple[TokenLogprob, ...]:
    """The entries of OpenAI's chat, of llama-server's completions and of Ollama's answers."""
    return tuple(
        TokenLogprob(
            token=_id(entry),
            data=_data(entry),
            logprob=_number(entry.get("logprob")),
            top=tuple(
                Alternative(token=_id(other), data=_data(other), logprob=_number(other.get("logprob")))
                for other in entries(entry.get("top_logprobs"))[:top]
            ),
        )
        for entry in entries(content)
    )


def columns(value: dict[str, Any], top: int) -> tuple[TokenLogprob, ...]:
    """The columns of OpenAI's older completions."""
    tokens, numbers, others = (value.get(key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(numbers, list):
        return ()
    rows = others if isinstance(others, list) else [None] * len(tokens)
    found = []
    for token, number, row in zip(tokens, numbers, rows, strict=False):
        ranked = sorted((row if isinstance(row, dict) else {}).items(), key=_rank)
        found.append(
            TokenLogprob(
                token=UNKNOWN,
                data=_named(str(token)),
                logprob=_number(number),
                top=tuple(
                    Alternative(token=UNKNOWN, data=_named(name), logprob=_number(value))
                    for name, value in ranked[:top]
                ),
            )
        )
    return tuple(found)


def _rank(item: tuple[str, Any]) -> float:
    return -_number(item[1])


def _id(entry: dict[str, Any]) -> int:
    found = entry.get("id")
    return found if isinstance(found, int) else UNKNOWN


def _data(entry: dict[str, Any]) -> bytes:
    data = entry.get("bytes")
    if isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        return bytes(data)
    return _named(str(entry.get("token", "")))


def _named(name: str) -> bytes:
    """The bytes of a token's name; a piece of a character is spelled in hexadecimal after `bytes:`."""
    found = _BYTES.fullmatch(name)
    if found is None:
        return name.encode(errors="replace")
    return bytes.fromhex(found[1].replace("\\x", ""))


def _number(value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return min(float(value), 0.0)
    return _IMPOSSIBLE
