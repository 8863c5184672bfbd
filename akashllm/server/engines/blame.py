"""Whose a failed load is: what was ordered, or the machine that it was tried on."""

from __future__ import annotations

import re

ORDER = "order"
"""No machine of those that were ordered could load it: a file that is none, an architecture nobody knows."""

_MACHINE = re.compile(
    r"memory|alloc|buffer|kv.?cache|cache blocks|cuda|cublas|cudnn|nccl|gpu|device|driver|capability|vulkan"
    r"|mmap|mlock|input/output|no space|disk|time[sd]?.?out|connection",
    re.IGNORECASE,
)
"""What may be otherwise on the next machine."""


def blame(words: str) -> str:
    """`ORDER`, or empty where these words of an engine leave open that another machine does better."""
    return "" if not words or _MACHINE.search(words) else ORDER
