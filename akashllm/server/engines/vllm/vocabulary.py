"""A Hugging Face tokenizer, asked what the rest of the child has to know of a model's tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from akashllm.server.engines.prompts import check_ids
from akashllm.server.engines.spelling import BYTES, spell

_INFILL = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
)
"""Fill-in-the-middle tokens as models name them: Qwen and Granite, StarCoder, its second, DeepSeek, Llama."""

_ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<EOT>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""Control tokens that end an answer whatever the model's files say, as in llama.cpp's `llama-vocab.cpp`."""


class Vocabulary:
    """`ends` are ids the model's files give as ends. Every method may be called from any thread."""

    def __init__(self, tokenizer: Any, size: int, ends: Iterable[int] = ()) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = Lock()
        self.size = size
        added: dict[int, Any] = dict(getattr(tokenizer, "added_tokens_decoder", None) or {})
        self.special = {str(token.content): number for number, token in added.items()}
        """Texts the tokenizer takes for single tokens, with their ids."""
        self.control = frozenset(number for number, token in added.items() if token.special)
        """Tokens that are not shown."""
        self.bos = self._known(tokenizer.bos_token_id)
        self.eos = self._known(tokenizer.eos_token_id)
        self.add_bos = False
        """Templates of this kind of model write BOS themselves."""
        names = set(_ENDS)
        if {"<|return|>", "<|call|>"} <= self.special.keys():
            # gpt-oss ends a message with it, not the answer.
            names.discard("<|end|>")
        named = {number for text, number in self.special.items() if text in names and number in self.control}
        self.ends = frozenset({*named, *ends, self.eos} - {-1})
        """Tokens that end a generation."""
        fims = (tuple(self.special.get(text, -1) for text in names) for names in _INFILL)
        self.infill = next((fim for fim in fims if min(fim) >= 0), None)

    @cached_property
    def spelled(self) -> list[bytes]:
        """The bytes of every token."""
        with self._lock:
            pieces = self._tokenizer.convert_ids_to_tokens(list(range(min(self.size, len(self._tokenizer)))))
        ids = {number: text for text, number in self.special.items()}
        plain = [piece for number, piece in enumerate(pieces) if number not in ids and isinstance(piece, str)]
        in_bytes = all(character in BYTES for piece in plain for character in piece)
        spelled = [
            ids[number].encode() if number in ids else spell(piece, in_bytes=in_bytes)
            for number, piece in enumerate(pieces)
        ]
        return spelled + [b""] * (self.size - len(spelled))

    def text(self, token: int) -> str:
        """A token spelled out; empty for -1."""
        return self.spelled[token].decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Tokens of `text`. `bos` adds what the model wants around a prompt. Lone surrogates become '?'."""
        plain = text.encode("utf-8", "replace").decode()
        with self._lock:
            if special or not self.control:
                return list(self._tokenizer.encode(plain, add_special_tokens=bos))
            return list(self._tokenizer.encode(plain, add_special_tokens=bos, split_special_tokens=True))

    def check(self, tokens: Iterable[int]) -> None:
        """Raises `BadRequest` for ids outside the vocabulary."""
        check_ids(tokens, self.size)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens, control tokens spelled out. Raises `BadRequest` for ids outside the vocabulary."""
        self.check(tokens)
        with self._lock:
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _known(self, token: int | None) -> int:
        return token if token is not None and 0 <= token < self.size else -1
