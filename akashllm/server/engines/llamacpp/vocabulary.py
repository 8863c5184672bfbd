"""The vocabulary of a loaded model: text to tokens, tokens to bytes, and what each token is for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

import llama_cpp.llama_cpp as api

from akashllm.errors import BadRequest

_PIECE = 1 << 14


class Vocabulary:
    """Tables are made once: a call into the library costs more than a look-up, and aborts on a bad id."""

    def __init__(self, model: ctypes.c_void_p) -> None:
        raw = api.llama_model_get_vocab(model)
        if raw is None:
            message = "the model has no vocabulary"
            raise ValueError(message)
        self.raw = raw
        self.size = int(api.llama_vocab_n_tokens(raw))
        buffer = ctypes.create_string_buffer(_PIECE)
        self.shown: list[bytes] = []
        """Bytes of each token as text; control tokens are empty."""
        self.spelled: list[bytes] = []
        """Bytes of each token, control tokens spelled out."""
        self.control: set[int] = set()
        ends: set[int] = set()
        for token in range(self.size):
            self.spelled.append(self._piece(token, buffer, special=True))
            if api.llama_vocab_is_control(raw, token):
                self.control.add(token)
                self.shown.append(b"")
            else:
                self.shown.append(self.spelled[-1])
            if api.llama_vocab_is_eog(raw, token):
                ends.add(token)
        self.ends = frozenset(ends)
        """Tokens that end a generation."""
        self.bos = self._known(api.llama_vocab_bos(raw))
        self.eos = self._known(api.llama_vocab_eos(raw))
        self.newline = self._known(api.llama_vocab_nl(raw))
        self.add_bos = bool(api.llama_vocab_get_add_bos(raw))
        fim = tuple(
            self._known(call(raw))
            for call in (api.llama_vocab_fim_pre, api.llama_vocab_fim_suf, api.llama_vocab_fim_mid)
        )
        self.infill = fim if min(fim) >= 0 else None
        """Prefix, suffix and middle tokens, if the model knows how to fill in."""
        self.special = {
            self.spelled[token].decode("utf-8", "replace"): token
            for token in range(self.size)
            if self.spelled[token]
            and (
                token in self.control
                or api.llama_vocab_get_attr(raw, token) & api.LLAMA_TOKEN_ATTR_USER_DEFINED
            )
        }
        """Texts the tokenizer takes for single, special tokens, with their ids."""

    def _known(self, token: int) -> int:
        return int(token) if 0 <= token < self.size else -1

    def _piece(self, token: int, buffer: ctypes.Array[ctypes.c_char], *, special: bool) -> bytes:
        count = api.llama_token_to_piece(self.raw, token, buffer, _PIECE, 0, special)
        return buffer.raw[:count] if count > 0 else b""

    def text(self, token: int) -> str:
        """A token spelled out; empty for -1."""
        return self.spelled[token].decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Tokens of `text`. `bos` adds what the model wants around a prompt. Lone surrogates become '?'."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = api.llama_tokenize(self.raw, data, len(data), tokens, room, bos, special)
        if count < 0:
            tokens = (ctypes.c_int32 * -count)()
            count = api.llama_tokenize(self.raw, data, len(data), tokens, -count, bos, special)
        if count < 0:
            raise BadRequest("the text cannot be turned into tokens", hint="shorten it")
        return tokens[:count]

    def check(self, tokens: Iterable[int]) -> None:
        """Raises `BadRequest` for ids outside the vocabulary, on which the library would abort."""
        for token in tokens:
            if not 0 <= token < self.size:
                message = f"token id {token} is outside the vocabulary of this model (0 to {self.size - 1})"
                raise BadRequest(message, hint="send ids of this model's own tokenizer", param="prompt")

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens, control tokens spelled out. Raises `BadRequest` for ids outside the vocabulary."""
        self.check(tokens)
        return b"".join(self.spelled[token] for token in tokens).decode("utf-8", "replace")
