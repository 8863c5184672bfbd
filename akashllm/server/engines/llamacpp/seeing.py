"""Where a prompt shows an image: marks in its text become the image's tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from akashllm.server.engines.llamacpp.pictures import Picture, Piece
from akashllm.server.engines.llamacpp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from akashllm.server.engines.llamacpp.sight import Sight


class Seeing(threading.local):
    """The model's vocabulary, but for the marks of images: those of `found` become their tokens.

    Each thread prepares one request at a time, and has its own `found`.
    """

    def __init__(self, vocabulary: Vocabulary, sight: Sight) -> None:
        self._vocabulary = vocabulary
        self._sight = sight
        self.found: dict[bytes, tuple[Piece, ...]] = {}
        self.size, self.add_bos = vocabulary.size, vocabulary.add_bos
        self.bos, self.eos = vocabulary.bos, vocabulary.eos
        self.special, self.infill = vocabulary.special, vocabulary.infill

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Tokens of `text`, those of images where their marks are."""
        tokens: list[int] = []
        for number, part in enumerate(self._sight.marked(text)):
            if number % 2:
                for piece in self.found.get(bytes.fromhex(part), ()):
                    tokens += piece.ids if isinstance(piece, Picture) else piece
            elif part or not number:
                tokens += self._vocabulary.tokenize(part, special=special, bos=bos and not number)
        return tokens

    def text(self, token: int) -> str:
        """A token spelled out."""
        return self._vocabulary.text(token)

    def check(self, tokens: Iterable[int]) -> None:
        """Raises `BadRequest` for ids outside the vocabulary."""
        self._vocabulary.check(tokens)
