"""What the time tokens of a window mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.server.engines.vllm.timestamps import Slice, read_window

ZERO = 1000


def at(seconds: float) -> int:
    """The token of a time."""
    return ZERO + round(seconds / 0.02)


@pytest.mark.parametrize(
    ("tokens", "slices", "done"),
    [
        ([ZERO, 1, 2], [Slice(0.0, 30.0, (1, 2))], 30.0),
        ([ZERO, 1, 2, at(4)], [Slice(0.0, 4.0, (1, 2))], 30.0),
        ([ZERO, 1, at(4), at(5), 2, at(9)], [Slice(0.0, 4.0, (1,)), Slice(5.0, 9.0, (2,))], 30.0),
        ([ZERO, 1, at(4), at(5), 2], [Slice(0.0, 4.0, (1,))], 4.0),
        ([ZERO, 1, at(4), at(4)], [Slice(0.0, 4.0, (1,))], 4.0),
        ([ZERO, ZERO, 1], [Slice(0.0, 0.0, ())], 30.0),
        ([ZERO], [Slice(0.0, 30.0, ())], 30.0),
    ],
)
def test_a_window_is_cut_where_two_times_meet(tokens: list[int], slices: list[Slice], done: float) -> None:
    """An open end is heard again from the last cut; a closed one, and none at all, end the window."""
    found, went = read_window(tokens, ZERO, 30.0)

    assert [one.tokens for one in found] == [one.tokens for one in slices]
    assert [one.start for one in found] == pytest.approx([one.start for one in slices])
    assert [one.end for one in found] == pytest.approx([one.end for one in slices])
    assert went == pytest.approx(done)


@given(
    st.lists(st.one_of(st.integers(0, 50), st.integers(ZERO, ZERO + 1500)), max_size=30), st.floats(0.1, 30.0)
)
@settings(max_examples=300)
def test_every_window_moves_on_whatever_the_model_says(tokens: list[int], length: float) -> None:
    """No tokens make a window be heard for ever, or a time of text."""
    found, done = read_window([ZERO, *tokens], ZERO, length)

    assert 0 < done <= length
    assert all(token < ZERO for one in found for token in one.tokens)
