"""Log probabilities in the two shapes OpenAI has for them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from akashllm.server.domain import Alternative, TokenLogprob

IMPOSSIBLE = -9999.0
"""What OpenAI writes for minus infinity, which JSON does not have."""


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = [
        {**_chat_token(token), "top_logprobs": [_chat_token(each) for each in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(token: TokenLogprob | Alternative) -> dict[str, Any]:
    return {
        "token": token.data.decode("utf-8", "replace"),
        "logprob": max(token.logprob, IMPOSSIBLE),
        "bytes": list(token.data),
    }


def _name(data: bytes) -> str:
    """A token as text; where it is a piece of a character, its bytes as OpenAI spells them."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class TextLogprobs:
    """`logprobs` of a text completion, made piece by piece: offsets go on from the piece before.

    `text_offset` counts characters from the start of the returned text.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, tokens: tuple[TokenLogprob, ...], text: str) -> dict[str, Any]:
        """The echoed prompt. Nothing comes before its first token, which so has no probability: null.

        A beginning-of-text token that the model wants is a token of the prompt and no part of its text.
        """
        added = tokens[:1] if tokens and not text.encode().startswith(tokens[0].data or b"\xff") else ()
        piece = self._empty()
        for position, token in enumerate(tokens):
            self._append(piece, token, known=position > 0, width=0 if position < len(added) else None)
        return piece

    def tokens(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """Generated tokens."""
        piece = self._empty()
        for token in tokens:
            self._append(piece, token)
        return piece

    def _empty(self) -> dict[str, Any]:
        return {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [] if self._top else None,
            "text_offset": [],
        }

    def _append(
        self, piece: dict[str, Any], token: TokenLogprob, *, known: bool = True, width: int | None = None
    ) -> None:
        piece["tokens"].append(_name(token.data))
        piece["token_logprobs"].append(max(token.logprob, IMPOSSIBLE) if known else None)
        piece["text_offset"].append(self._characters)
        if width is None:
            width = len(self._decoder.decode(token.data))
        self._characters += width
        if self._top:
            piece["top_logprobs"].append(self._alternatives(token) if known else None)

    def _alternatives(self, token: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens by their text, and always the chosen one."""
        found: dict[str, float] = {}
        for each in token.top[: self._top]:
            found.setdefault(_name(each.data), max(each.logprob, IMPOSSIBLE))
        found.setdefault(_name(token.data), max(token.logprob, IMPOSSIBLE))
        return found


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two pieces as one."""
    return {key: None if value is None else [*value, *second[key]] for key, value in first.items()}
