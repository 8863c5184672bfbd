"""Places: so many answers at once, so many requests waiting, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from akashllm.errors import Busy

FULL = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's words (server/sched.go, ErrMaxQueue), two spaces included: clients look for them."""

_RETRY_FULL = 2.0
_RETRY_SLOW = 10.0


class Admission:
    """`slots` answers at once and `queue` requests waiting; a request takes as many slots as it has choices.

    A request that needs more slots than there are takes all of them. The line is strict: a wide request at
    its head is not overtaken, so it cannot starve.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self.queue = queue
        self.used = 0
        self._line: deque[Place] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._line)

    def join(self, choices: int) -> Place:
        """A place in the line; raises `Busy` if the line is full. Leaving the place's context gives it up."""
        place = Place(self, min(choices, self.slots))
        if not self._line and self.used + place.weight <= self.slots:
            self.used += place.weight
            place.held = True
        elif len(self._line) >= self.queue:
            raise Busy(FULL, retry_after=_RETRY_FULL)
        else:
            place.turn = asyncio.get_running_loop().create_future()
            self._line.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Take a place out of the line or free its slots, and let the next ones in."""
        if place.held:
            self.used -= place.weight
            place.held = False
        elif place in self._line:
            self._line.remove(place)
        while self._line and self.used + self._line[0].weight <= self.slots:
            following = self._line.popleft()
            self.used += following.weight
            following.held = True
            if following.turn is not None and not following.turn.done():
                following.turn.set_result(None)


class Place:
    """One request's place; `held` once it has its slots."""

    __slots__ = ("_admission", "held", "turn", "weight")

    def __init__(self, admission: Admission, weight: int) -> None:
        self._admission = admission
        self.weight = weight
        self.held = False
        self.turn: asyncio.Future[None] | None = None

    async def wait(self, patience: float) -> None:
        """Return when it is this request's turn; raises `Busy` after `patience` seconds."""
        if self.held or self.turn is None:
            return
        try:
            async with asyncio.timeout(patience):
                await self.turn
        except TimeoutError:
            raise Busy(
                f"server busy: no slot became free within {patience:g} s", retry_after=_RETRY_SLOW
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self)
