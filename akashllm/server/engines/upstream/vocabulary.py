"""Token ids as text, for an upstream that takes texts only but shows its model's vocabulary.

Ollama does, in `/api/show` with `verbose`: the arrays of the GGUF file's header (`tokenizer.ggml.*`, as in
llama.cpp's `gguf-py/gguf/constants.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akashllm.errors import Unsupported
from akashllm.server.engines.prompts import check_ids
from akashllm.server.engines.spelling import BYTES, spell

_CONTROL, _USER_DEFINED = 3, 4
_STARTS = ("bos", "cls")
_ENDS = ("eos", "sep", "seperator")
"""The last as older files of BERT models spell it."""


class Vocabulary:
    """`header` is the model's `model_info`. Raises `Unsupported`, about `param`, if that has no vocabulary."""

    def __init__(self, header: Mapping[str, Any], param: str) -> None:
        pieces = header.get("tokenizer.ggml.tokens")
        if not isinstance(pieces, list) or not pieces:
            raise Unsupported(
                "the upstream takes no token ids and does not show its tokens",
                param=param,
                hint="send the text instead",
            )
        kinds = header.get("tokenizer.ggml.token_type")
        self._pieces: list[Any] = pieces
        self._kinds: list[Any] = kinds if isinstance(kinds, list) else []
        self._byte_level = header.get("tokenizer.ggml.model") == "gpt2"
        self._starts = {header.get(f"tokenizer.ggml.{role}_token_id") for role in _STARTS}
        self._ends = {header.get(f"tokenizer.ggml.{role}_token_id") for role in _ENDS}

    def text(self, tokens: Sequence[int]) -> str:
        """Control tokens spelled out. Raises `BadRequest` for ids outside the vocabulary."""
        check_ids(tokens, len(self._pieces))
        whole = b"".join(map(self._spelled, tokens)).decode("utf-8", "replace")
        # SentencePiece puts a space before every text.
        return whole if self._byte_level else whole.removeprefix(" ")

    def prompt(self, tokens: Sequence[int]) -> str:
        """Text to be continued: without the start that is put before every prompt."""
        return self.text(tokens[1:] if tokens and tokens[0] in self._starts else tokens)

    def content(self, tokens: Sequence[int]) -> str:
        """Text to be embedded: without the tokens that are put around every text."""
        return self.prompt(tokens[:-1] if tokens and tokens[-1] in self._ends else tokens)

    def _spelled(self, token: int) -> bytes:
        piece = str(self._pieces[token])
        kind = self._kinds[token] if token < len(self._kinds) else None
        if kind in {_CONTROL, _USER_DEFINED} or (self._byte_level and not BYTES.keys() >= set(piece)):
            return piece.encode()
        return spell(piece, in_bytes=self._byte_level)
