"""Sequences put aside in ordinary memory: idle ones in the cache slow down every step of the others.

Attention looks at every cell of the unified cache, whoever it belongs to. So an idle sequence is copied out and
its cells are freed; copying it back costs a small part of evaluating it again.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from itertools import count

import numpy as np
from numpy.typing import NDArray

from akashllm.server.engines.llamacpp.memory import available_memory
from akashllm.server.engines.llamacpp.pictures import Span
from akashllm.server.engines.llamacpp.pictures import whole as uncut
from akashllm.server.engines.llamacpp.prefix import common_prefix

MIN_TOKENS = 64
"""A shorter sequence is sooner evaluated than kept."""

MOST = 2 * 1024**3
"""Bytes the shelf holds at most; less where memory is short."""

ENTRIES = 512
"""Sequences it holds at most: every request is compared with each of them while the others' answers wait."""


class Kept:
    """A sequence on the shelf: its tokens, its cells' contents, and how it was evaluated (see `Resident`)."""

    __slots__ = ("blocks", "data", "pictures", "pure", "tokens")

    def __init__(
        self,
        tokens: array[int],
        data: NDArray[np.uint8],
        blocks: int,
        pure: int | None,
        pictures: tuple[Span, ...] = (),
    ) -> None:
        self.tokens = tokens
        self.data = data
        self.blocks = blocks
        self.pure = pure
        self.pictures = pictures


class Shelf:
    """What was put aside, the oldest leaving first."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = min(MOST, available_memory() // 10) if limit is None else limit
        self._entries: OrderedDict[int, Kept] = OrderedDict()
        self._numbers = count()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def covers(self, tokens: array[int]) -> bool:
        """Whether a sequence is there that begins with all of these."""
        for number, entry in self._entries.items():
            if common_prefix(entry.tokens, tokens) == len(tokens):
                self._entries.move_to_end(number)
                return True
        return False

    def put(self, entry: Kept) -> None:
        """Put a sequence aside; those it begins with are superfluous now."""
        for number, other in list(self._entries.items()):
            if common_prefix(other.tokens, entry.tokens) == len(other.tokens):
                self._take(number)
        self._entries[next(self._numbers)] = entry
        self.size += entry.data.nbytes
        while self._entries and (self.size > self._limit or len(self._entries) > ENTRIES):
            self._take(next(iter(self._entries)))

    def best(self, plan: array[int], *, whole: bool) -> tuple[Kept | None, int]:
        """The sequence with the longest beginning in common with a plan; `whole` as in `prefix.usable`."""
        best: Kept | None = None
        most = 0
        for entry in self._entries.values():
            shared = uncut(entry.pictures, common_prefix(entry.tokens, plan))
            if shared > most and not (whole and shared < len(entry.tokens)):
                best, most = entry, shared
        return best, most

    def _take(self, number: int) -> None:
        self.size -= self._entries.pop(number).data.nbytes
