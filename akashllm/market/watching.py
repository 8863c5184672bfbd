"""Closing what nobody uses: neither a container nor the chain can do it, so somebody has to look.

A container holds no key that could close its own lease, and Console's runtime limit counts hours of lease, not
of idleness. Whoever runs this, from any machine with a key for the market, closes what its service calls idle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from akashllm.errors import AkashllmError
from akashllm.market.base import Market
from akashllm.market.probe import Health, probe

IDLE = "idle_hours"
"""The fact of a row that says after how many hours without a request it is closed."""

Verdict = Literal["closed", "open", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One deployment to look at. `close` ends it; `key` makes its service tell how long it has been idle."""

    name: str
    dseq: str
    market: Market
    hours: float
    key: str | None
    close: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of it. `idle` is in hours."""

    name: str
    dseq: str
    verdict: Verdict
    hours: float
    idle: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def look(one: Watched, *, ask: Callable[[str, str | None], Health] = probe) -> Seen:
    """Close it if it has been idle for too long. What does not tell is left as it is."""

    def seen(verdict: Verdict, idle: float | None = None, reason: str = "") -> Seen:
        return Seen(name=one.name, dseq=one.dseq, verdict=verdict, hours=one.hours, idle=idle, reason=reason)

    try:
        standing = one.market.status(one.dseq)
        if standing.state not in {"running", "starting"} or standing.url is None:
            return seen("unknown", reason=standing.reason or f"it is {standing.state}")
        health = ask(standing.url, one.key)
        if health.idle is None:
            why = health.reason or ("the service does not tell" if one.key else "its key is not known here")
            return seen("unknown", reason=why)
        idle = health.idle / 3600
        if idle < one.hours:
            return seen("open", idle)
        one.close()
    except AkashllmError as error:
        return seen("unknown", reason=error.message)
    return seen("closed", idle)
