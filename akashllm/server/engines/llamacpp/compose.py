"""How the tokens of a step are chosen, so that an answer does not depend on the company it was made in.

llama.cpp's attention on a processor has three kernels, which round differently (`ggml-cpu/ops.cpp`,
`GGML_FA_TILE_Q`): 64 tokens and more in a pass go through one, fewer through another, a single token against
512 cells and more through a third. Sums also depend on the order of a sequence's cells in the cache. In a
quantised model any such difference grows to about a tenth of a logit: enough to change a drawn token now and
then, though hardly ever the most likely one.

So decoding never shares a pass with whole blocks of prompts, and a prompt is always cut at the same places:
its whole blocks of 64 go through the first kernel, the rest through the second. What a request with a seed
takes from the cache must have been made in the same way; it never decodes alone (in a small model: in a large
one a second token costs too much); and when nothing else runs it begins with an empty cache, unless that has a
block or more of its prompt. A repetition on a quiet server is
then exact. Under load a long-lived cache has its cells in another order, and a seed is a strong hint rather
than a promise.
"""

from __future__ import annotations

from collections.abc import Sequence

TILE = 64
"""Tokens in a pass from which the kernel for many applies."""


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """`room` dealt out in equal shares; what the modest do not need goes to the others. Order is kept."""
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for place, index in enumerate(order):
        given[index] = min(wanted[index], room // (len(order) - place))
        room -= given[index]
    return given


def whole_blocks(tokens: int) -> int:
    """Tokens of a prompt that are in whole blocks."""
    return tokens // TILE * TILE


def block_shares(spans: Sequence[tuple[int, int]], room: int) -> list[int]:
    """Tokens for each span (have, end), dealt out in blocks; one that begins within a block ends at its end."""
    units = shares([-(-end // TILE) - have // TILE for have, end in spans], max(1, room // TILE))
    return [
        min(end, (have // TILE + count) * TILE) - have if count else 0
        for (have, end), count in zip(spans, units, strict=True)
    ]
