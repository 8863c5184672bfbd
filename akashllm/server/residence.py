"""How long the model stays in memory: Ollama's keep_alive (server/sched.go).

The countdown runs while no request is in flight. A request that says nothing leaves the duration as the last
one set it; an unload forgets it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType

_GRACE = 1.0
"""Seconds an idle model stays at least once a duration was set: the request that set it is about to begin."""


class Residence:
    """Counts the requests in flight (as a context manager) and calls `unload` when the time is up."""

    def __init__(self, default: float, unload: Callable[[], Awaitable[None]]) -> None:
        self._default = math.inf if default < 0 else default
        self._seconds = self._default
        self._unload = unload
        self._in_flight = 0
        self._leaving = False
        self._deadline: datetime | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._in_flight > 0

    def keep(self, seconds: float) -> None:
        """Stay so long after the last request; negative: forever."""
        self._seconds = math.inf if seconds < 0 else seconds
        if not self.busy:
            self._arm(max(self._seconds, _GRACE))

    def leave_when_idle(self) -> bool:
        """Unload after the requests in flight; False if there are none, so the caller may unload now."""
        self._leaving = self.busy
        return self._leaving

    def forget(self) -> None:
        """The model is gone: no deadline, and the default for the next time."""
        self._disarm()
        self._leaving = False
        self._seconds = self._default

    def expires_at(self) -> datetime | None:
        """When the model goes if nothing more happens (UTC); None: never."""
        if self.busy:
            return None if math.isinf(self._seconds) else datetime.now(UTC) + timedelta(seconds=self._seconds)
        return self._deadline

    def close(self) -> None:
        """No unload after this."""
        self._disarm()
        if self._unloading is not None:
            self._unloading.cancel()

    def __enter__(self) -> None:
        self._in_flight += 1
        self._disarm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight -= 1
        if not self.busy:
            self._arm(0.0 if self._leaving else self._seconds)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        if not math.isinf(seconds):
            self._deadline = datetime.now(UTC) + timedelta(seconds=seconds)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _disarm(self) -> None:
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._unloading = asyncio.ensure_future(self._unload())
