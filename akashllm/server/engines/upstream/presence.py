"""Whether the upstream is there: reaching it, looking after it, and finding it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from time import monotonic

from akashllm.errors import Busy, EngineDied, EngineFailed, ServiceError
from akashllm.server.engine import State, Watcher
from akashllm.server.engines.upstream.faults import LOADING
from akashllm.server.engines.upstream.link import Link, Silent, Unreachable

log = logging.getLogger("akashllm.engine")

PATIENCE = 30.0
"""Seconds a load waits for an upstream that is not there yet; one that loads its model is waited for longer."""

INTERVAL = 10.0
"""Seconds between two looks at an upstream that is well."""

BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before the first, second ... new attempt to reach one that is not; the last from then on."""

LOOK = 5.0
"""Seconds a look may take."""

_STRIKES = 3


class GivenUp(EngineFailed):
    """Trying again would not help, unless somebody asks for it. `fault` is `order` where no machine could."""

    def __init__(self, message: str, *, hint: str = "", fault: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fault = fault


class Presence:
    """The state of one upstream, and a task that keeps it true.

    A subclass says how to connect; `reason` is a sentence about the state.
    """

    def __init__(self, link: Link, *, patience: float = PATIENCE, interval: float = INTERVAL) -> None:
        self._link = link
        self._patience = patience
        self._interval = interval
        self._state: State = "unloaded"
        self._watchers: list[Watcher] = []
        self._lock = asyncio.Lock()
        self._look = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._over = False
        self.reason = ""
        self.fault = ""
        self.losses = 0
        """How many times it went away."""

    @property
    def state(self) -> State:
        """Where the upstream is, as far as was seen."""
        return self._state

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change of state."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Reach the upstream and see a token come out of it. Raises `EngineFailed` with the reason."""
        async with self._lock:
            if self._state == "ready":
                return
            first = self._state == "unloaded"
            if first:
                self._set("starting", "looking for the upstream")
            try:
                await self._until_ready(self._patience if first else 0.0)
            except ServiceError as error:
                self._failed(error)
                raise _failure(error) from error
            finally:
                if self._keeper is None:
                    self._keeper = asyncio.create_task(self._keep(), name="watch the upstream")

    # --- what a subclass says ------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """See to it that there is an upstream. Raises `Unreachable` to be asked again soon, else why not."""

    async def _connect(self) -> None:
        """Find out what it is, have it say one token, and set the state."""
        raise NotImplementedError

    def _sign(self) -> str:
        """The path whose answer is a sign of life."""
        raise NotImplementedError

    # --- coming and going ----------------------------------------------------------------------------------

    async def _until_ready(self, patience: float) -> None:
        """Connect, again and again for a while; for as long as it takes while the upstream loads its model."""
        began = monotonic()
        attempt = 0
        while True:
            try:
                await self._prepare()
                await self._connect()
            except Unreachable:
                if monotonic() - began >= patience:
                    raise
            except Busy as error:
                if error.code == LOADING:
                    self._set("loading", error.message)
                elif monotonic() - began >= patience:
                    raise
            else:
                return
            await asyncio.sleep(BACK_OFF[min(attempt, len(BACK_OFF) - 1)])
            attempt += 1

    async def _keep(self) -> None:
        """Look after the upstream: see when it goes, and when it comes back."""
        strikes = attempt = 0
        while True:
            well = self._state == "ready"
            pause = self._interval if well else BACK_OFF[min(attempt, len(BACK_OFF) - 1)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            self._look.clear()
            if self._state == "ready":
                strikes = await self._check(strikes)
                attempt = 0
            elif self._state == "failed" and not self._over:
                attempt += 1
                await self._again()

    async def _check(self, strikes: int) -> int:
        """Ask an upstream that is well whether it still is; how many times in a row it was not."""
        try:
            await self._link.ask("GET", self._sign(), within=LOOK)
        except Busy:
            return 0
        except ServiceError as error:
            strikes += 1
            if strikes >= _STRIKES or (isinstance(error, Unreachable) and not isinstance(error, Silent)):
                self._fall(error.message)
                return 0
            self._look.set()
            return strikes
        return 0

    async def _again(self) -> None:
        async with self._lock:
            if self._state != "failed":
                return
            try:
                await self._prepare()
                await self._connect()
            except ServiceError as error:
                self._failed(error)

    def _failed(self, error: ServiceError) -> None:
        if self._state != "failed":
            log.warning("the upstream at %s cannot be used: %s", self._link.shown, error.message)
        self._over = isinstance(error, GivenUp)
        self.fault = error.fault if isinstance(error, GivenUp) else ""
        self._set("failed", error.message)

    def _fall(self, words: str) -> None:
        log.warning("the upstream at %s is gone: %s", self._link.shown, words)
        self.losses += 1
        self._over = False
        self.fault = ""
        self._set("failed", words)
        self._look.set()

    def _notice(self, error: ServiceError) -> None:
        """An upstream that cannot be reached, or that broke off, is looked after at once."""
        if self._state != "ready":
            return
        if isinstance(error, Unreachable):
            self._fall(error.message)
        elif isinstance(error, EngineDied):
            self._look.set()

    async def _leave(self) -> None:
        """Stop looking after the upstream."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])

    def _set(self, state: State, reason: str, percent: float | None = None) -> None:
        if (state, reason) == (self._state, self.reason) and percent is None:
            return
        self._state, self.reason = state, reason
        for watcher in self._watchers:
            watcher(state, reason, percent)


def _failure(error: ServiceError) -> EngineFailed:
    if isinstance(error, EngineFailed):
        return error
    return EngineFailed(f"the upstream cannot serve the model: {error.message}", hint=error.hint)
