"""An exact account of the unified key-value cache: which sequences share which cells.

llama.cpp does not say how many cells are used. A cell is taken when a token is evaluated, shared when a prefix
is copied to another sequence, and free again when the last sequence that has it lets go.
"""

from __future__ import annotations

from array import array

import numpy as np


class Cells:
    """The cells of one cache. Ids are ours, not llama.cpp's: only the counts have to agree."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = np.zeros(size, np.int16)
        self._free: list[int] = []
        self._fresh = 0

    @property
    def free(self) -> int:
        """Cells no sequence holds."""
        return self.size - self._fresh + len(self._free)

    @property
    def used(self) -> int:
        """Cells at least one sequence holds."""
        return self._fresh - len(self._free)

    def take(self, row: array[int], count: int) -> None:
        """Append `count` fresh cells to a sequence's row. The caller has looked at `free`."""
        free = self._free
        if count == 1 and free:
            cell = free.pop()
            self._holders[cell] = 1
            row.append(cell)
            return
        again = min(count, len(free))
        cells = free[len(free) - again :]
        del free[len(free) - again :]
        cells.extend(range(self._fresh, self._fresh + count - again))
        self._fresh += count - again
        self._holders[cells] = 1
        row.extend(cells)

    def share(self, row: array[int], source: array[int], start: int, end: int) -> None:
        """Append the cells `start` to `end` of another sequence to a row."""
        cells = source[start:end]
        if cells:
            self._holders[np.frombuffer(cells, np.int32)] += 1
            row.extend(cells)

    def release(self, row: array[int], start: int, end: int | None = None) -> None:
        """Let go of a stretch of a row."""
        cells = row[start:end]
        del row[start:end]
        if not cells:
            return
        ids = np.frombuffer(cells, np.int32)
        self._holders[ids] -= 1
        self._free.extend(ids[self._holders[ids] == 0].tolist())

    def exclusive(self, row: array[int], start: int) -> bool:
        """Whether no other sequence holds any of the cells from `start` on."""
        cells = row[start:]
        return not cells or bool((self._holders[np.frombuffer(cells, np.int32)] == 1).all())

    def freed_by(self, row: array[int]) -> int:
        """How many cells would be free if this sequence let go of all its own."""
        return int((self._holders[np.frombuffer(row, np.int32)] == 1).sum()) if row else 0
