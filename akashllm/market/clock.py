"""Time as something that is handed in, so that tests need not wait for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
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


def wrong_clock(words: str) -> str:
    """What to do where OpenSSL refuses a certificate for its dates; empty where it is for something else."""
    if "expired" not in words and "not yet valid" not in words:
        return ""
    return f"this machine takes it to be {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: set its clock if that is wrong"
