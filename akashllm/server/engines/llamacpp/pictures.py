"""Images inside a prompt: tokens that no vocabulary has, each with an embedding of its own.

A prompt is a list of token ids. The tokens of an image are negative ids made from a digest of its bytes, so two
prompts have the same ids in the same places exactly when they show the same image: sharing what is in the cache
needs to know nothing of images, but that one is used whole or not at all. In models with M-RoPE an image takes
fewer positions than tokens, so a place in the list and a position in the cache are two things.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Picture:
    """One stretch of embeddings that an image became. `positions` is how many positions they take.

    places      gives the positions of all tokens for that of the first, a row a dimension (M-RoPE has four)
    causal      whether its tokens see only those before them, as text does
    """

    __slots__ = ("causal", "embedding", "ids", "places", "positions")

    def __init__(
        self,
        digest: bytes,
        embedding: NDArray[np.float32],
        *,
        positions: int,
        places: Callable[[int], NDArray[np.int32]],
        causal: bool,
    ) -> None:
        self.ids = virtual(digest, len(embedding))
        self.embedding = embedding
        self.positions = positions
        self.places = places
        self.causal = causal

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def splits(self) -> bool:
        """Whether it can be evaluated in pieces."""
        return self.causal and self.positions == len(self)


Piece = Picture | tuple[int, ...]
"""A picture, or the tokens a model has around one."""


class Span(NamedTuple):
    """Where a picture begins in a prompt."""

    start: int
    picture: Picture

    @property
    def end(self) -> int:
        """The place after its last token."""
        return self.start + len(self.picture)


def virtual(digest: bytes, count: int) -> array[int]:
    """`count` negative ids that stand for an image and for no other one."""
    drawn = hashlib.shake_256(digest).digest(4 * count)
    ids = np.frombuffer(drawn, np.int32) | np.int32(-(2**31))
    return array("i", ids.tobytes())


def spans(tokens: Sequence[int], known: Mapping[int, Picture]) -> tuple[Span, ...]:
    """The pictures of a prompt, by the first ids of those it may have."""
    found: list[Span] = []
    place = 0
    while place < len(tokens):
        if tokens[place] >= 0:
            place += 1
            continue
        found.append(Span(place, known[tokens[place]]))
        place = found[-1].end
    return tuple(found)


def position(pictures: Sequence[Span], place: int) -> int:
    """The position in the cache of a place in a prompt."""
    return place - sum(len(span.picture) - span.picture.positions for span in pictures if span.end <= place)


def whole(pictures: Sequence[Span], length: int) -> int:
    """The largest length up to `length` that cuts no picture in two."""
    for span in pictures:
        if span.start < length < span.end:
            return span.start
    return length
