"""A `llama_batch` whose arrays are numpy's: a step writes slices, never single ctypes elements."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as api
import numpy as np


class Batch:
    """Room for `size` tokens, each in one sequence."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._sequence = np.zeros(size, np.int32)
        self._logits = np.zeros(size, np.int8)
        self._ones = np.ones(size, np.int32)
        # Each token has one sequence: its list is the element of `_sequence` itself, so pointers never change.
        start = self._sequence.ctypes.data
        self._pointers = np.arange(start, start + 4 * size, 4, dtype=np.uintp)
        raw: Any = api.llama_batch()
        raw.token = ctypes.cast(self._token.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        raw.embd = None
        raw.pos = ctypes.cast(self._pos.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        raw.n_seq_id = ctypes.cast(self._ones.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        raw.seq_id = ctypes.cast(self._pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        raw.logits = ctypes.cast(self._logits.ctypes.data, ctypes.POINTER(ctypes.c_int8))
        self.raw: api.llama_batch = raw

    def clear(self) -> None:
        """Start anew."""
        self.count = 0

    def decodes(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Add one token each of several sequences, all with logits."""
        start, end = self.count, self.count + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = positions
        self._sequence[start:end] = sequences
        self._logits[start:end] = 1
        self.count = end

    def chunk(
        self, tokens: Sequence[int], position: int, sequence: int, *, last: bool, every: bool = False
    ) -> None:
        """Add a stretch of one sequence. `last`: logits of its last token; `every`: of each."""
        start, end = self.count, self.count + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = np.arange(position, position + len(tokens), dtype=np.int32)
        self._sequence[start:end] = sequence
        self._logits[start:end] = every
        if last:
            self._logits[end - 1] = 1
        self.count = end

    def ready(self) -> api.llama_batch:
        """The batch as llama.cpp takes it."""
        self.raw.n_tokens = self.count
        return self.raw
