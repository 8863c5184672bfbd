"""How much of whose prompt goes into a step beside the tokens that are decoded."""

from __future__ import annotations

from array import array

from akashllm.server.engines.llamacpp.compose import TILE, block_shares, shares
from akashllm.server.engines.llamacpp.job import Choice
from akashllm.server.engines.llamacpp.pool import Pool

MIN_CHUNK = 64
SHARED_STEP = 0.1
"""Seconds a step may last because of prompts while others are decoding; ALONE_STEP: while none is."""
ALONE_STEP = 0.5


class Portions:
    """Deals out the room of steps.

    batch, micro_batch  tokens of a step, and of one pass of the device, at most
    tiled               whole blocks of prompts go in steps of their own (see `compose`)
    echo_rows           rows of logits a step has for prompts whose log probabilities were asked for
    """

    def __init__(self, pool: Pool, *, batch: int, micro_batch: int, tiled: bool, echo_rows: int) -> None:
        self._pool = pool
        self._batch = batch
        self._micro_batch = micro_batch
        self._tiled = tiled
        self._echo_rows = echo_rows
        self._turn = False
        self._rate = 0.0

    def deal(
        self, decodes: list[Choice], prompts: list[Choice]
    ) -> tuple[list[Choice], list[tuple[Choice, array[int]]]]:
        """Who decodes in this step, and the pieces of prompts beside them."""
        if not self._tiled:
            return decodes, self._pieces(prompts, self._batch - len(decodes), len(decodes))
        blocks = [choice for choice in prompts if choice.in_blocks()]
        rest = [choice for choice in prompts if not choice.in_blocks()]
        self._turn = not self._turn
        if blocks and (self._turn or not (decodes or rest)):
            return [], self._blocks(blocks, waiting=len(decodes) + len(rest))
        room = max(TILE - 1 - len(decodes), MIN_CHUNK if len(decodes) >= TILE else 0)
        return decodes, self._pieces(rest, room, len(decodes))

    def _pieces(self, prompts: list[Choice], room: int, decoding: int) -> list[tuple[Choice, array[int]]]:
        """Pieces of prompts in equal shares, what the short ones do not need going to the long."""
        if not prompts or room <= 0:
            return []
        wanted = [
            min(max(1, self._echo_rows // len(prompts)), choice.left()) if choice.echoes() else choice.left()
            for choice in prompts
        ]
        room = self._affordable(min(room, sum(wanted)), decoding)
        return self._cut(prompts, shares(wanted, room))

    def _blocks(self, prompts: list[Choice], *, waiting: int) -> list[tuple[Choice, array[int]]]:
        """Whole blocks of prompts, as many as one pass takes."""
        spans = [(choice.have(), choice.blocks) for choice in prompts]
        room = self._affordable(self._micro_batch, waiting)
        sizes = block_shares(spans, room)
        for place, size in enumerate(sizes):
            sizes[place] = min(size, self._pool.cells.free - 1 - sum(sizes[:place]))
        return self._cut(prompts, sizes)

    def _affordable(self, tokens: int, waiting: int) -> int:
        """How many of these tokens the time for a step and the cache allow."""
        if self._rate:
            seconds = SHARED_STEP if waiting else ALONE_STEP
            tokens = min(tokens, max(MIN_CHUNK, int(self._rate * seconds)))
        self._pool.reserve(tokens + waiting + 1)
        return max(1, min(tokens, self._pool.cells.free - waiting - 1))

    def _cut(self, prompts: list[Choice], sizes: list[int]) -> list[tuple[Choice, array[int]]]:
        cut: list[tuple[Choice, array[int]]] = []
        for choice, size in zip(prompts, sizes, strict=True):
            have = choice.have()
            if size > 0:
                cut.append((choice, choice.plan[have : have + size]))
        return cut

    def measure(self, prompt: int, decodes: int, seconds: float) -> None:
        """Learn from a step how quickly prompts are evaluated here."""
        if prompt >= MIN_CHUNK and seconds > 0:
            rate = (prompt + decodes) / seconds
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
