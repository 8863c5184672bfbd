"""A market in memory that loses replies on demand, and a record that dies at any write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from akashllm.errors import MarketError
from akashllm.market.base import (
    Balance,
    Bid,
    Created,
    Held,
    Lease,
    LogLine,
    MarketState,
    Offer,
    Screening,
    Standing,
)
from akashllm.market.clock import Clock
from akashllm.market.probe import Health
from akashllm.market.progress import Progress
from akashllm.state import Store


class Killed(BaseException):
    """What `kill -9` is to a test: nothing after it may run."""


@dataclass
class Running:
    """One deployment at the market."""

    reference: str
    state: MarketState = "open"


@dataclass
class ScriptedMarket:
    """`fault(call, moment)` may raise before the market acts and after it acted: then the reply is lost."""

    fault: Callable[[str, str], None] = lambda _call, _moment: None
    offers: int = 1
    prices: tuple[tuple[str, str], ...] = (("2", "uact"), ("1", "uact"))
    available: Decimal | None = Decimal(5)
    hands_manifest: bool = True
    after_lease: MarketState = "running"
    open: dict[str, Running] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    name = "scripted"
    charges = True

    def _call(self, name: str, act: Callable[[], Any]) -> Any:
        self.calls.append(name)
        self.fault(name, "before")
        result = act()
        self.fault(name, "after")
        return result

    def balance(self) -> Balance:
        """As scripted."""
        return Balance(available=self.available)

    def screen(self, sdl: str) -> Screening:
        """As scripted."""
        offers = tuple(Offer(provider=f"p{n}") for n in range(self.offers))
        result: Screening = self._call("screen", lambda: Screening(offers=offers, removed=(("the GPU", 7),)))
        return result

    def create(self, sdl: str, *, reference: str, deposit: Decimal | None = None) -> Created:
        """Never the same twice: a market does not know that a call was made again."""

        def act() -> Created:
            dseq = str(1000 + len(self.calls))
            self.open[dseq] = Running(reference)
            return Created(dseq=dseq, manifest="[]" if self.hands_manifest else None)

        result: Created = self._call("create", act)
        return result

    def bids(self, dseq: str) -> Sequence[Bid]:
        """As scripted."""
        bids = [
            Bid(provider=f"p{n}", amount=Decimal(amount), denom=denom)
            for n, (amount, denom) in enumerate(self.prices)
        ]
        result: Sequence[Bid] = self._call("bids", lambda: bids)
        return result

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Starts it."""

        def act() -> Lease:
            if dseq not in self.open:
                raise MarketError("no such deployment")
            self.open[dseq].state = self.after_lease
            return Lease(dseq=dseq, provider=bid.provider)

        result: Lease = self._call("lease", act)
        return result

    def status(self, dseq: str) -> Standing:
        """How it stands."""
        running = self.open.get(dseq)
        state: MarketState = running.state if running else "closed"
        url = "http://127.0.0.1:1" if state == "running" else None
        result: Standing = self._call(
            "status", lambda: Standing(dseq=dseq, state=state, url=url, reason="because")
        )
        return result

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """Nothing."""
        return iter(())

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Nothing."""

    def close(self, dseq: str) -> None:
        """Ends it."""
        self._call("close", lambda: self.open.pop(dseq, None))

    def holdings(self) -> Sequence[Held]:
        """What is open."""
        held = [Held(dseq=dseq, state=one.state, reference=one.reference) for dseq, one in self.open.items()]
        result: Sequence[Held] = self._call("holdings", lambda: held)
        return result


class MortalStore(Store):
    """Dies at its n-th change, either before it is made or just after it was."""

    dies_at = -1
    after = False
    changes = 0
    dead = False

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """As the store, until death."""
        return self._mortal(lambda: Store.record(self, *args, **kwargs))

    def add(self, *args: Any, **kwargs: Any) -> Any:
        """As the store, until death."""
        return self._mortal(lambda: Store.add(self, *args, **kwargs))

    def _mortal(self, act: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.changes += 1
        doomed = self.changes == self.dies_at
        if doomed and not self.after:
            self.dead = True
            raise Killed
        result = act()
        if doomed:
            self.dead = True
            raise Killed
        return result


@dataclass
class Ticking(Clock):
    """Time passes only when somebody sleeps."""

    now: float = 0.0

    def monotonic(self) -> float:
        """Seconds slept."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds


@dataclass
class Verdict:
    """A smoke test's outcome."""

    ok: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"ok": self.ok}


@dataclass
class Notes(Progress):
    """Remembers what was said."""

    said: list[str] = field(default_factory=list)

    def step(self, name: str, text: str) -> None:
        """Kept."""
        self.said.append(f"{name}: {text}")

    def loading(self, percent: float | None, text: str) -> None:
        """Kept."""
        self.said.append(f"{text} {percent}")

    def check(self, name: str, verdict: str, reason: str) -> None:
        """Kept."""
        self.said.append(f"{name} {verdict}")

    def note(self, text: str) -> None:
        """Kept."""
        self.said.append(text)


def healthy(_url: str, _key: str | None) -> Health:
    """Always ready."""
    return Health("ready", 100.0)
