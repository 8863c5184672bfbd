"""The vocabulary of a loaded model: text to tokens, tokens to bytes, and what each token is for."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Iterable, Sequence

import llama_cpp.llama_cpp as api

from akashllm.errors import BadRequest
from akashllm.server.engines.prompts import check_ids

_PIECE = 1 << 14
_PLAIN = 1 << 14
"""Characters up to which a text is not looked through for special tokens."""
_MARKS = 256
"""Special tokens of a text that llama.cpp gets to see at a time."""


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
        # One that eats the white space before it has to see what is before it.
        whole = [
            re.escape(text)
            for text, token in sorted(self.special.items(), key=lambda item: -len(item[0]))
            if not api.llama_vocab_get_attr(raw, token) & api.LLAMA_TOKEN_ATTR_LSTRIP
        ]
        self._cuttable = re.compile("|".join(whole)) if whole else None

    def _known(self, token: int) -> int:
        return int(token) if 0 <= token < self.size else -1

    def _piece(self, token: int, buffer: ctypes.Array[ctypes.c_char], *, special: bool) -> bytes:
        count = api.llama_token_to_piece(self.raw, token, buffer, _PIECE, 0, special)
        return buffer.raw[:count] if count > 0 else b""

    def text(self, token: int) -> str:
        """A token spelled out; empty for -1."""
        return self.spelled[token].decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Tokens of `text`. `bos` adds what the model wants around a prompt. Lone surrogates become '?'.

        llama.cpp looks for each special token from each place where it found one to the end of the text, so a
        text full of them takes the square of its length: it is cut into pieces, each of which begins with one.
        """
        cuts = [0]
        if self._cuttable is not None and len(text) > _PLAIN:
            found = itertools.islice(
                (match.start() for match in self._cuttable.finditer(text)), 0, None, _MARKS
            )
            cuts += [place for place in found if place]
        if len(cuts) == 1:
            return self._tokenize(text, special=special, bos=bos)
        tokens: list[int] = []
        for start, end in itertools.pairwise([*cuts, len(text)]):
            tokens += self._tokenize(text[start:end], special=special, bos=False)
        around = self._tokenize("", special=special, bos=True) if bos else []
        before = int(self.add_bos and bool(around))
        return [*around[:before], *tokens, *around[before:]]

    def _tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
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
        check_ids(tokens, self.size)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens, control tokens spelled out. Raises `BadRequest` for ids outside the vocabulary."""
        self.check(tokens)
        return b"".join(self.spelled[token] for token in tokens).decode("utf-8", "replace")
