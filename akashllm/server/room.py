"""Room in memory for several models: a budget, at most so many, one load at a time, the least used goes.

The rules are those of Ollama's scheduler (server/sched.go) where it has some: requests that need a load are
served in the order they came, an idle model makes room at once, a busy one as soon as what it is doing is done,
and whoever asks for that one meanwhile waits behind the model it makes room for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

from akashllm.errors import EngineFailed

GIB = 1024**3


class Tenant(Protocol):
    """What may be in the room. `need` is bytes: an estimate, and the truth once it is known."""

    name: str
    pinned: bool
    """It stays whatever others need."""
    used: int
    """Grows with every use: the smallest was not used for longest."""

    @property
    def busy(self) -> bool:
        """Whether somebody would miss it now."""
        ...

    @property
    def need(self) -> int:
        """Bytes it takes."""
        ...

    async def evict(self) -> bool:
        """Leave memory and call `Room.left`; False if it is busy after all."""
        ...

    def drain(self, *, on: bool) -> None:
        """Let what runs end and what comes wait, until told otherwise."""
        ...


class Room:
    """Who is in memory. `budget` is bytes for all of them (0: no limit), `most` how many (0: no limit).

    A budget that was worked out and not chosen is not `strict`: a model that does not fit it has its try once
    nothing else can leave, for the engine knows better.
    """

    def __init__(self, budget: int = 0, most: int = 0, *, strict: bool = True) -> None:
        self.budget = budget
        self.most = most
        self._strict = strict
        self._held: dict[Tenant, int] = {}
        self._turn = asyncio.Lock()
        self._event = asyncio.Event()

    @property
    def taken(self) -> int:
        """Bytes that are taken, or promised to the model that loads."""
        return sum(self._held.values())

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Who is in memory or loads."""
        return tuple(self._held)

    @contextlib.asynccontextmanager
    async def admit(self, tenant: Tenant) -> AsyncIterator[None]:
        """Room for `tenant`, which loads inside the block; it is kept unless the block fails.

        Waits for its turn and for room, without end: whoever waits sets the bound and cancels. Raises
        `EngineFailed` if there never will be room.
        """
        if tenant in self._held:
            with self._unless_it_fails(tenant):
                yield
            return
        async with self._turn:
            await self._make_room(tenant)
            self._held[tenant] = tenant.need
            with self._unless_it_fails(tenant):
                yield
                self._held[tenant] = tenant.need
                await self._settle(tenant)

    def left(self, tenant: Tenant) -> None:
        """`tenant` is out of memory."""
        self._held.pop(tenant, None)
        self.changed()

    def changed(self) -> None:
        """Somebody became idle or left."""
        self._event.set()

    @contextlib.contextmanager
    def _unless_it_fails(self, tenant: Tenant) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.left(tenant)
            raise

    async def _make_room(self, tenant: Tenant) -> None:
        drained: set[Tenant] = set()
        try:
            while True:
                self._event.clear()
                leaving = self._leaving(tenant)
                if not leaving:
                    return
                busy = {each for each in leaving if each.busy}
                for each in drained - busy:
                    each.drain(on=False)
                for each in busy:
                    each.drain(on=True)
                drained = busy
                if busy:
                    await self._event.wait()
                else:
                    await leaving[0].evict()
        finally:
            for each in drained:
                each.drain(on=False)

    def _leaving(self, tenant: Tenant) -> Sequence[Tenant]:
        """Those that must leave so that `tenant` has room, idle ones first, then those used longest ago."""
        if self._fits(tenant, ()):
            return ()
        movable = sorted(
            (each for each in self._held if not each.pinned), key=lambda each: (each.busy, each.used)
        )
        for count in range(1, len(movable) + 1):
            if self._fits(tenant, movable[:count]):
                return movable[:count]
        if self.most and len(self._held) - len(movable) >= self.most:
            raise EngineFailed(
                f"{tenant.name} cannot be loaded: at most {self.most} may be in memory, and as many stay there",
                hint="raise AKASHLLM_MAX_LOADED",
            )
        if self._strict:
            raise EngineFailed(self._too_large(tenant), hint="raise AKASHLLM_MEMORY, or lower the context")
        return movable

    def _fits(self, tenant: Tenant, gone: Sequence[Tenant]) -> bool:
        left = {each: size for each, size in self._held.items() if each not in gone and each is not tenant}
        if self.most and len(left) >= self.most:
            return False
        return not self.budget or sum(left.values()) + tenant.need <= self.budget

    async def _settle(self, tenant: Tenant) -> None:
        """Now that it is known what `tenant` takes: let idle ones leave if that is more than was thought."""
        while self.budget and self.taken > self.budget:
            idle = [each for each in self._held if not (each is tenant or each.pinned or each.busy)]
            if idle:
                await min(idle, key=lambda each: each.used).evict()
            elif self._strict:
                raise EngineFailed(self._too_large(tenant), hint="raise AKASHLLM_MEMORY, or lower the context")
            else:
                return

    def _too_large(self, tenant: Tenant) -> str:
        others = sum(
            size for each, size in self._held.items() if each is not tenant and (each.pinned or each.busy)
        )
        beside = f" beside the {_gib(others)} that others take" if others else ""
        return (
            f"{tenant.name} needs {_gib(tenant.need)} of memory{beside}, "
            f"and {_gib(self.budget)} are there for all models"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
