"""What pulling and pushing have in common: progress that is told as it happens, ten times a second at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

TICK = 0.1
"""Seconds between two lines about one file."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of progress. `total` and `completed` are bytes of the file `digest`, if it is about one."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


Tell = Callable[[int], None]
"""Called with the bytes of a file that are done."""


async def watched(step: Step, work: Callable[[Tell], Awaitable[object]]) -> AsyncGenerator[Step]:
    """Run `work` and yield `step` with how far it is; whoever closes the generator cancels the work."""
    done = 0

    def tell(completed: int) -> None:
        nonlocal done
        done = completed

    async def run() -> None:
        await work(tell)

    task = asyncio.ensure_future(run())
    try:
        yield step
        shown = 0
        while not task.done():
            await asyncio.wait([task], timeout=TICK)
            if done != shown and not task.done():
                shown = done
                yield replace(step, completed=done)
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()
    yield replace(step, completed=step.total)
