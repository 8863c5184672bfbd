"""The sequences in the cache: who has which, what is shared, and what is given up when room is short."""

from __future__ import annotations

from array import array
from itertools import count
from typing import Any

from akashllm.server.engines.llamacpp.cells import Cells
from akashllm.server.engines.llamacpp.compose import TILE
from akashllm.server.engines.llamacpp.context import Context
from akashllm.server.engines.llamacpp.pictures import Span
from akashllm.server.engines.llamacpp.prefix import Resident, faithful, leader, longest, usable
from akashllm.server.engines.llamacpp.shelf import MIN_TOKENS, Kept, Shelf

MIN_SHARED = 4
"""Tokens. A shorter common beginning costs more to share than to evaluate."""

MIN_FOLLOWED = 16
"""Tokens. A shorter beginning is not worth waiting for."""

RENT = 8192
"""Idle cells times running sequences: beyond that, looking at them in every step costs too much."""


class Pool:
    """Sequences of one context, and the cells they hold.

    `whole`: the memory is recurrent; a cached sequence is used to its last token or not at all.
    """

    def __init__(self, context: Context, sequences: int, *, whole: bool) -> None:
        self.context = context
        self.cells = Cells(context.cells)
        self.residents: dict[int, Resident] = {}
        self._free = list(range(sequences - 1, -1, -1))
        self._whole = whole
        self._clock = count(1)
        self.shelf = Shelf()

    def reserve(self, tokens: int) -> bool:
        """Have `tokens` cells free, giving up idle sequences, oldest first. False: not enough of them."""
        while self.cells.free < tokens:
            if not self.evict():
                return False
        return True

    def reach(self) -> int:
        """Cells that are free or would be if all idle sequences were given up; an estimate from below."""
        idle = (
            self.cells.freed_by(resident.cells)
            for resident in self.residents.values()
            if resident.owner is None
        )
        return self.cells.free + sum(idle)

    def evict(self) -> bool:
        """Give up the idle sequence that was used longest ago; False if there is none."""
        idle = self._idle()
        if idle:
            self._put_aside(idle[0])
        return bool(idle)

    def tidy(self, *, running: int) -> None:
        """Put idle sequences aside, the longest unused first: every step looks at their cells.

        While others run only those are put aside that cost too much, because the cells they leave are taken by
        the others out of order (see `compose`). On a quiet server the one used last stays.
        """
        idle = self._idle()
        if not running:
            for resident in idle[:-1]:
                self._put_aside(resident)
            return
        held = sum(len(resident.cells) for resident in idle)
        for resident in idle:
            if held <= RENT // running:
                return
            held -= len(resident.cells)
            self._put_aside(resident)

    def _idle(self) -> list[Resident]:
        """Sequences nobody decodes in, the longest unused first."""
        idle = [resident for resident in self.residents.values() if resident.owner is None]
        return sorted(idle, key=lambda resident: resident.used)

    def expected(self, plan: array[int]) -> int:
        """How much of a plan is in the cache, or will be once those who run have come so far."""
        limit = len(plan) - 1
        _, here = longest(self.residents.values(), plan, whole=self._whole)
        here = max(here, self.shelf.best(plan, whole=self._whole)[1])
        _, soon = (None, 0) if self._whole else leader(self.residents.values(), plan)
        return min(max(here, soon), limit)

    def acquire(
        self,
        owner: Any,
        plan: array[int],
        *,
        share: bool,
        blocks: int,
        exact: bool,
        pictures: tuple[Span, ...] = (),
    ) -> tuple[Resident, Resident | None, int]:
        """A sequence for a plan, with as much of it as is there.

        Also the running sequence that is worth waiting for, and up to where. At least the last token of the
        plan is left to evaluate: its logits are wanted. There are more sequences than owners, so one is always
        found. `exact` takes only what was evaluated as this plan, with `blocks` tokens in blocks, would be.
        """
        limit = len(plan) - 1
        source, shared = self._source(plan) if share else (None, 0)
        if self._whole and shared > limit:
            source, shared = None, 0
        shared = min(shared, limit)
        pure = faithful(source, blocks, shared) if source is not None else 0
        if exact:
            shared = pure
        if source is None or shared < MIN_SHARED:
            resident = self._fresh()
            pure = shared = 0
        elif source.owner is None and self._claimable(source, shared):
            resident = source
            self.truncate(resident, shared)
        else:
            source.used = next(self._clock)
            resident = self._fresh(keep=source)
            self._copy(source, resident, shared)
        resident.owner = owner
        resident.plan = plan
        resident.pictures = pictures
        resident.used = next(self._clock)
        resident.blocks = blocks
        resident.pure = None if pure == shared else pure
        if not share or self._whole:
            return resident, None, 0
        ahead, planned = leader((other for other in self.residents.values() if other is not resident), plan)
        planned = min(planned, limit)
        if ahead is not None and exact:
            planned = faithful(ahead, blocks, planned)
        if ahead is not None and planned >= len(resident.tokens) + MIN_FOLLOWED:
            return resident, ahead, planned
        return resident, None, 0

    def start_over(self, plan: array[int]) -> None:
        """With no owner left: forget everything, unless a good part of this plan is there."""
        _, shared = longest(self.residents.values(), plan, whole=self._whole)
        if shared < TILE:
            for resident in self._idle():
                self._put_aside(resident)
            self.context.clear()

    def catch_up(self, resident: Resident, source: Resident, target: int, *, exact: bool) -> None:
        """Copy what another sequence has by now of the plan of this one, up to `target`."""
        have = min(usable(source, resident.plan, whole=False), target)
        pure = faithful(source, resident.blocks, have)
        if exact:
            have = pure
        if have > len(resident.tokens):
            self._copy(source, resident, have)
            if pure < have:
                resident.pure = pure if resident.pure is None else min(pure, resident.pure)

    def best_source(self, resident: Resident) -> Resident | None:
        """Another sequence that has more of this one's plan than it has itself."""
        others = (other for other in self.residents.values() if other is not resident)
        source, shared = longest(others, resident.plan, whole=self._whole)
        return source if shared > len(resident.tokens) else None

    def grow(self, resident: Resident, tokens: array[int]) -> None:
        """Account for tokens that were evaluated."""
        resident.tokens.extend(tokens)
        self.cells.take(resident.cells, len(tokens))

    def truncate(self, resident: Resident, length: int) -> None:
        """Keep only the first `length` tokens, whatever the cache has beyond; fewer if the memory cannot."""
        if not self.context.remove(resident.id, resident.position(length)):
            self.context.remove(resident.id, -1)
            length = 0
        del resident.tokens[length:]
        self.cells.release(resident.cells, length)
        if resident.stable is not None and length <= resident.stable:
            resident.stable = None

    def shift(self, resident: Resident, keep: int, discard: int) -> None:
        """Take `discard` tokens out after the first `keep`; the rest moves down, or is to be evaluated anew."""
        if self.context.can_shift() and not self._whole and self.cells.exclusive(resident.cells, keep):
            self.context.remove(resident.id, keep, keep + discard)
            self.context.shift(resident.id, keep + discard, -discard)
            del resident.tokens[keep : keep + discard]
            self.cells.release(resident.cells, keep, keep + discard)
            resident.stable = keep
        else:
            self.truncate(resident, keep)
        resident.pure = keep if resident.pure is None else min(keep, resident.pure)

    def release(self, resident: Resident) -> None:
        """Nobody decodes in it any more; it stays for those who begin alike."""
        resident.owner = None
        resident.plan = array("i")
        resident.used = next(self._clock)
        if resident.stable is not None:
            self.truncate(resident, resident.stable)
        if not resident.tokens:
            self._drop(resident)

    def _source(self, plan: array[int]) -> tuple[Resident | None, int]:
        """The sequence that has most of a plan, taken from the shelf if it lies there."""
        source, shared = longest(self.residents.values(), plan, whole=self._whole)
        kept, more = self.shelf.best(plan, whole=self._whole)
        if kept is None or more < shared + MIN_TOKENS or not self.reserve(len(kept.tokens)):
            return source, shared
        resident = self._fresh(keep=source)
        if not self.context.restore(resident.id, kept.data):
            self._drop(resident)
            return source, shared
        resident.tokens = kept.tokens[:]
        resident.blocks, resident.pure = kept.blocks, kept.pure
        resident.pictures = kept.pictures
        self.cells.take(resident.cells, len(kept.tokens))
        return resident, more

    def _claimable(self, source: Resident, shared: int) -> bool:
        """Whether an idle sequence is better taken over than copied: cutting it leaves cells out of order."""
        rest = len(source.tokens) - shared
        quiet = all(other.owner is None for other in self.residents.values())
        return not rest or not self._free or (quiet and rest <= shared)

    def _put_aside(self, resident: Resident) -> None:
        tokens = resident.tokens
        others = (other for other in self.residents.values() if other is not resident)
        known = longest(others, tokens)[1] == len(tokens)
        if len(tokens) >= MIN_TOKENS and not known and not self.shelf.covers(tokens):
            data = self.context.save(resident.id)
            if data is not None:
                self.shelf.put(Kept(tokens[:], data, resident.blocks, resident.pure, resident.pictures))
        self._drop(resident)

    def _fresh(self, keep: Resident | None = None) -> Resident:
        if not self._free:
            self._put_aside(next(other for other in self._idle() if other is not keep))
        resident = Resident(self._free.pop())
        self.residents[resident.id] = resident
        return resident

    def _copy(self, source: Resident, target: Resident, end: int) -> None:
        start = len(target.tokens)
        if self._whole:
            self.context.copy(source.id, target.id, -1, -1)
        else:
            self.context.copy(source.id, target.id, source.position(start), source.position(end))
        target.tokens.extend(source.tokens[start:end])
        self.cells.share(target.cells, source.cells, start, end)

    def _drop(self, resident: Resident) -> None:
        self.context.remove(resident.id, -1)
        self.cells.release(resident.cells, 0)
        self.residents.pop(resident.id, None)
        self._free.append(resident.id)
