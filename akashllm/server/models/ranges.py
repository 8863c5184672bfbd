"""Byte ranges: which parts of a file are there, which are missing, and what a server says it sends."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)


class Ranges:
    """Disjoint half-open ranges `[start, end)` in bytes, in order; those that touch become one."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Count `[start, end)` as there."""
        if not 0 <= start <= end:
            raise ValueError(f"no range goes from {start} to {end}")
        if start == end:
            return
        first = bisect_left(self._ranges, start, key=lambda known: known[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            start = min(start, self._ranges[last][0])
            end = max(end, self._ranges[last][1])
            last += 1
        self._ranges[first:last] = [(start, end)]

    def clear(self) -> None:
        """Nothing is there."""
        self._ranges.clear()

    @property
    def total(self) -> int:
        """Bytes that are there."""
        return sum(end - start for start, end in self._ranges)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def missing(self, size: int, most: int) -> list[tuple[int, int]]:
        """What `[0, size)` lacks, in pieces of at most `most` bytes."""
        pieces = []
        at = 0
        for start, end in [*self._ranges, (size, size)]:
            while at < min(start, size):
                stop = min(at + most, start, size)
                pieces.append((at, stop))
                at = stop
            at = max(at, end)
        return pieces

    def first_missing(self, start: int, end: int) -> int:
        """The first byte of `[start, end)` that is not there; `end` if all are."""
        for known, stop in self._ranges:
            if known <= start < stop:
                return min(stop, end)
        return start


def content_range(value: str) -> tuple[int, int, int | None] | None:
    """(start, end, size or None) of a `Content-Range` header, end exclusive; None if it makes no sense."""
    found = _CONTENT_RANGE.fullmatch(value.strip())
    if found is None:
        return None
    start, last = int(found[1]), int(found[2])
    size = None if found[3] == "*" else int(found[3])
    if last < start or (size is not None and last >= size):
        return None
    return start, last + 1, size
