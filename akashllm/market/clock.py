"""Time as something that is handed in, so that tests need not wait for it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that only ever grow, and a way to let them pass."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


class RealClock:
    """The machine's own."""

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`."""
        time.sleep(seconds)
