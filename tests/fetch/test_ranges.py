"""Byte ranges, held against plain sets of numbers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.server.models.ranges import Ranges, content_range

SIZE = 60
SPANS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted), max_size=12)


@given(SPANS, st.integers(1, 20))
def test_ranges_are_sets_of_bytes(spans: list[list[int]], most: int) -> None:
    """Whatever is added in whatever order, what is there and what is missing make up the file, once each."""
    ranges, there = Ranges(), set[int]()
    for start, end in spans:
        ranges.add(start, end)
        there |= set(range(start, end))

    known = list(ranges)
    missing = ranges.missing(SIZE, most)
    assert ranges.total == len(there)
    assert {byte for start, end in known for byte in range(start, end)} == there
    assert all(a[1] < b[0] for a, b in itertools.pairwise(known))
    assert sorted(byte for start, end in missing for byte in range(start, end)) == sorted(
        set(range(SIZE)) - there
    )
    assert all(0 < end - start <= most for start, end in missing)
    for start, end in ((0, SIZE), (7, 31)):
        expected = next((byte for byte in range(start, end) if byte not in there), end)
        assert ranges.first_missing(start, end) == expected


@pytest.mark.parametrize("span", [(5, 1), (-1, 3)])
def test_a_range_that_is_none(span: tuple[int, int]) -> None:
    """Backwards and negative ranges are refused: a damaged record has them."""
    with pytest.raises(ValueError, match="no range"):
        Ranges().add(*span)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("bytes 0-9/100", (0, 10, 100)),
        ("Bytes 5-5/6", (5, 6, 6)),
        ("bytes 0-9/*", (0, 10, None)),
        ("bytes 9-0/100", None),
        ("bytes 0-100/100", None),
        ("bytes */100", None),
        ("bytes 0-9", None),
        ("items 0-9/100", None),
        ("bytes 0-\u0669/100", None),
        ("", None),
    ],
)
def test_what_a_server_says_it_sends(value: str, read: tuple[int, int, int | None] | None) -> None:
    """A Content-Range is read as the standard has it, or not at all."""
    assert content_range(value) == read
