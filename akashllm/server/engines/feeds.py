"""What a request's answer passes through between the child that makes it and whoever reads it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Generic, TypeVar

from akashllm.errors import EngineDied, ServiceError
from akashllm.server.domain import Delta, Done, Event, Generation, Speech
from akashllm.server.engines.answer import AnswerReader
from akashllm.server.engines.frames import Submit, Transcribe

PILE = 32
"""Events a reader may be behind before deltas are put together; before that each token is seen to come."""

_ENTRY = 64

E = TypeVar("E", Event, Speech)


class Feed(Generic[E]):
    """The events of one request. `order` is what makes a child begin with it."""

    __slots__ = ("_events", "_waiter", "delivered", "error", "key", "order", "over", "retried")

    def __init__(self, order: Submit | Transcribe) -> None:
        self.key = order.key
        self.order = order
        self._events: deque[E] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.error: ServiceError | None = None
        self.over = False
        self.delivered = False
        """Whether the reader has seen anything: if not, another child may start over."""
        self.retried = False

    def put(self, event: E) -> None:
        """Add an event and wake the reader."""
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """There is no more."""
        self.over = True
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """End with an error, after what is still to be read."""
        self.error = error
        self.end()

    def lost(self, error: EngineDied) -> None:
        """The child died: the next one starts over, once, if nobody has seen anything yet."""
        if self.delivered or self.retried:
            self.fail(error)
        else:
            self._events.clear()
            self.retried = True

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next(self) -> E | None:
        """The next event; None if there is no more. Raises what it failed with."""
        while not self._events:
            if self.error is not None:
                raise self.error
            if self.over:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        self.delivered = True
        return self._events.popleft()


class TextFeed(Feed[Event]):
    """The events of a generation, and what a slow reader of them costs."""

    __slots__ = ("held", "readers", "request", "size", "tail")

    def __init__(self, order: Submit) -> None:
        super().__init__(order)
        self.request: Generation = order.request
        self.size = 0
        """Bytes, roughly, that wait to be read."""
        self.held = False
        self.tail = ""
        """The end of the prompt as the model sees it."""
        self.readers: dict[int, AnswerReader] = {}

    def put(self, event: Event) -> None:
        """Add an event and wake the reader; `Done` is the last."""
        if type(event) is Delta:
            self.size += _weight(event)
        elif type(event) is Done:
            self.over = True
        super().put(event)

    def lost(self, error: EngineDied) -> None:
        """As for every feed; what the dead child said is forgotten."""
        super().lost(error)
        if not self.over:
            self.size = 0
            self.held = False
            self.tail = ""
            self.readers.clear()

    async def next(self) -> Event | None:
        """The next event; deltas that have piled up come as one."""
        event = await super().next()
        if type(event) is Delta:
            self.size -= _weight(event)
            if len(self._events) >= PILE and not event.tool_calls:
                event = self._gather(event)
        return event

    def _gather(self, first: Delta) -> Delta:
        more: list[Delta] = []
        while self._events:
            event = self._events[0]
            if type(event) is not Delta or event.index != first.index or event.tool_calls:
                break
            if event.thinking and (first.text or any(part.text for part in more)):
                break
            more.append(event)
            self._events.popleft()
            self.size -= _weight(event)
        if not more:
            return first
        parts = [first, *more]
        return Delta(
            index=first.index,
            text="".join(part.text for part in parts),
            thinking="".join(part.thinking for part in parts),
            tokens=sum(part.tokens for part in parts),
            logprobs=tuple(itertools.chain.from_iterable(part.logprobs for part in parts)),
        )


def _weight(delta: Delta) -> int:
    """Bytes a delta takes, roughly."""
    entries = 1 + sum(1 + len(entry.top) for entry in delta.logprobs)
    return len(delta.text) + len(delta.thinking) + _ENTRY * entries
