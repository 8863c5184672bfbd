"""Several choices from an upstream that makes one at a time: as many requests, their events as one stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import msgspec

from akashllm.server.domain import Delta, Done, Event, Finish, Generation, Started, Usage

_READ_AHEAD = 16
_SEEDS = 2**32 - 1

Start = Callable[[Generation], AsyncGenerator[Event]]


def alone(request: Generation, index: int) -> Generation:
    """The request for one of the choices. Seeds are in a row, so that seeded choices differ and repeat."""
    seed = request.sampling.seed
    sampling = request.sampling
    if seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=(seed + index) % _SEEDS)
    return msgspec.structs.replace(request, id=f"{request.id}-{index}", n=1, sampling=sampling)


async def several(request: Generation, start: Start) -> AsyncGenerator[Event]:
    """The events of all choices: one `Started`, one `Done` with the prompt counted once.

    Closing the iterator, or an error in one choice, ends them all.
    """
    queue: asyncio.Queue[tuple[int, Event] | asyncio.Task[None]] = asyncio.Queue()
    room = asyncio.Semaphore(_READ_AHEAD)

    async def run(index: int) -> None:
        async with contextlib.aclosing(start(alone(request, index))) as events:
            async for event in events:
                await room.acquire()
                queue.put_nowait((index, event))

    tasks = {asyncio.create_task(run(index)) for index in range(request.n)}
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    began = False
    ends: list[Done] = []
    open_tasks = len(tasks)
    try:
        while open_tasks:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                open_tasks -= 1
                item.result()
                continue
            room.release()
            index, event = item
            match event:
                case Started():
                    if not began:
                        began = True
                        yield event
                case Delta() | Finish():
                    yield msgspec.structs.replace(event, index=index)
                case Done():
                    ends.append(event)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    yield _together(ends)


def _together(ends: list[Done]) -> Done:
    first = ends[0]
    longest = max(ends, key=lambda done: done.timings.decode)
    return Done(
        usage=Usage(
            prompt_tokens=first.usage.prompt_tokens,
            completion_tokens=sum(done.usage.completion_tokens for done in ends),
            cached_tokens=first.usage.cached_tokens,
        ),
        timings=longest.timings,
        context=first.context,
    )
