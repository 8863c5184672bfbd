"""What is asked of a deployment and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from akashllm.errors import MarketError
from akashllm.market.base import Bid
from akashllm.market.progress import Progress
from akashllm.plan import Plan
from akashllm.state import Deployment

STEPS = ("plan", "preflight", "create", "bids", "choose", "lease", "manifest", "ready", "smoke", "done")

API_KEY = "AKASHLLM_API_KEY"
ADMIN_KEY = "AKASHLLM_ADMIN_KEY"


class Verdicts(Protocol):
    """What a smoke test found."""

    @property
    def ok(self) -> bool:
        """Whether every promise holds."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        ...


class Verify(Protocol):
    """Judges a URL: `akashllm.smoke.run`, handed in."""

    def __call__(self, url: str, *, api_key: str, model: str, progress: Progress) -> Verdicts:
        """The verdicts. Raises `AkashllmError` where none can be reached."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to deploy.

    secrets   values for the SDL's placeholders; an API key is made if none is given, an admin key likewise
    timeout   seconds for bids, and again for readiness
    attempts  providers that are tried, one after the other, where the market charges for them
    idle      hours without a request after which `watch` closes it; None: never
    """

    plan: Plan
    sdl: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 900.0
    attempts: int = 1
    idle: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A deployment that has a URL. `already` says that it ran before it was asked for; `admin` may be empty."""

    deployment: Deployment
    key: str = field(repr=False)
    admin: str = field(default="", repr=False)
    report: Verdicts | None = None
    already: bool = False


Choose = Callable[[Sequence[Bid]], Bid]


def cheapest(bids: Sequence[Bid]) -> Bid:
    """The lowest amount. Amounts of different denominations do not compare: that is refused."""
    if len({bid.denom for bid in bids}) != 1:
        raise MarketError("the bids are in different denominations", hint="name the provider you want")
    return min(bids, key=lambda bid: (bid.amount, not bid.audited, bid.provider))


def bid_to_record(bid: Bid) -> dict[str, Any]:
    """A bid as JSON; the amount stays exact as text."""
    return {**asdict(bid), "amount": str(bid.amount)}


def bid_from_record(data: Mapping[str, Any]) -> Bid:
    """The bid that `bid_to_record` wrote."""
    return replace(Bid(provider="", amount=Decimal(0), denom=""), **{**data, "amount": Decimal(data["amount"])})
