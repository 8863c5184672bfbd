"""The events of several generations of one request, as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import cast

from akashllm.server.domain import Event, Generation

Numbered = tuple[int, Event]
"""An event and the number of its generation."""

_READ_AHEAD = 16
"""Events that may wait for a slow reader, over all generations, before the engine is slowed."""


async def merge(
    generations: Sequence[Generation], start: Callable[[Generation], AsyncIterator[Event]], *, at_once: int
) -> AsyncGenerator[Numbered]:
    """All events, each with the number of its generation; at most `at_once` generations run at a time.

    Closing the iterator, or an error in one generation, cancels all of them.
    """
    if len(generations) == 1:
        async with _open(start(generations[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[Numbered | asyncio.Task[None]] = asyncio.Queue()
    room = asyncio.Semaphore(_READ_AHEAD)
    running: set[asyncio.Task[None]] = set()
    waiting = enumerate(generations)

    async def run(position: int, generation: Generation) -> None:
        async with _open(start(generation)) as events:
            async for event in events:
                await room.acquire()
                queue.put_nowait((position, event))

    def begin(count: int) -> None:
        for _, (position, generation) in zip(range(count), waiting, strict=False):
            task = asyncio.create_task(run(position, generation))
            task.add_done_callback(queue.put_nowait)
            running.add(task)

    try:
        begin(at_once)
        while running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                running.remove(item)
                item.result()
                begin(1)
            else:
                room.release()
                yield item
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _open(events: AsyncIterator[Event]) -> contextlib.aclosing[AsyncGenerator[Event]]:
    """The runtime's iterators are async generators; the annotation promises less."""
    return contextlib.aclosing(cast("AsyncGenerator[Event]", events))
