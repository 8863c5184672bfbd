"""Whisper's time tokens: what the tokens of one window of sound say, when, and where the next window begins.

The rules are those of OpenAI's `whisper/transcribe.py`: two time tokens in a row end one segment and begin the
next. What stands after the last such pair is heard again in the next window, unless a time token closes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEP = 0.02
"""Seconds from one time token to the next."""

WINDOW = 30.0
"""Seconds the encoder hears at once."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of text between two times, in seconds from the beginning of the window."""

    start: float
    end: float
    tokens: tuple[int, ...]


def read_window(tokens: Sequence[int], first: int, length: float) -> tuple[list[Slice], float]:
    """The slices of a window of `length` seconds, and how many seconds of it are done (more than 0).

    tokens   from the first time token, which the prompt has, to before the end token
    first    the token of time 0; every larger one is a time
    """
    cuts = [place for place, (one, two) in enumerate(pairwise(tokens), 1) if one >= first and two >= first]
    closed = len(tokens) > 1 and tokens[-1] >= first and tokens[-2] < first
    if not cuts:
        times = [token for token in tokens if token > first]
        end = min(length, (times[-1] - first) * STEP) if times else length
        return [_slice(tokens, first, end=end)], length
    if closed:
        cuts.append(len(tokens))
    found = []
    begin = 0
    for cut in cuts:
        found.append(_slice(tokens[begin:cut], first))
        begin = cut
    done = length if closed else (tokens[begin - 1] - first) * STEP
    # Times that do not move on would have the same window heard for ever.
    return found, done if 0 < done <= length else length


def _slice(tokens: Sequence[int], first: int, *, end: float | None = None) -> Slice:
    start = (tokens[0] - first) * STEP if tokens and tokens[0] >= first else 0.0
    last = (tokens[-1] - first) * STEP if tokens and tokens[-1] >= first else start
    return Slice(start, last if end is None else end, tuple(token for token in tokens if token < first))
