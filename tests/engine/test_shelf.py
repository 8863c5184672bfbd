"""Sequences put aside in ordinary memory."""

from __future__ import annotations

from array import array

import numpy as np

from akashllm.server.engines.llamacpp.shelf import Kept, Shelf


def kept(tokens: list[int], size: int = 10) -> Kept:
    """A sequence that takes `size` bytes."""
    return Kept(array("i", tokens), np.zeros(size, np.uint8), 0, None)


def test_the_longest_beginning_is_found() -> None:
    """Of what is there, the sequence with most of a plan is found; whole ones only, where asked."""
    shelf = Shelf(1000)
    shelf.put(kept([1, 2, 3]))
    shelf.put(kept([1, 2, 4, 5, 6]))
    plan = array("i", [1, 2, 4, 9])
    found, length = shelf.best(plan, whole=False)
    assert found is not None
    assert (list(found.tokens), length) == ([1, 2, 4, 5, 6], 3)
    assert shelf.best(plan, whole=True) == (None, 0)
    assert shelf.best(array("i", [7]), whole=False) == (None, 0)


def test_what_is_contained_is_superfluous() -> None:
    """A longer sequence replaces its own beginning, and covers it."""
    shelf = Shelf(1000)
    shelf.put(kept([1, 2, 3]))
    shelf.put(kept([1, 2, 3, 4]))
    assert (len(shelf), shelf.size) == (1, 10)
    assert shelf.covers(array("i", [1, 2]))
    assert not shelf.covers(array("i", [1, 3]))


def test_the_oldest_leave_first() -> None:
    """The limit is kept, by the oldest leaving; a sequence beyond it is not kept at all."""
    shelf = Shelf(25)
    for number in range(4):
        shelf.put(kept([number]))
    assert (len(shelf), shelf.size) == (2, 20)
    assert not shelf.covers(array("i", [0]))
    assert shelf.covers(array("i", [2]))
    shelf.put(kept([8], 26))
    assert shelf.size <= 25
    assert not shelf.covers(array("i", [8]))
