"""Where deployments run: one Protocol, and the state machine that drives any market through it."""

from __future__ import annotations

from akashllm.market.base import (
    Balance,
    Bid,
    Created,
    Held,
    Lease,
    LogLine,
    Market,
    MarketState,
    Offer,
    Screening,
    Standing,
)
from akashllm.market.deploy import Deployer
from akashllm.market.local import LocalMarket
from akashllm.market.order import Order, Outcome, Verdicts
from akashllm.market.progress import Progress, Silent

__all__ = [
    "Balance",
    "Bid",
    "Created",
    "Deployer",
    "Held",
    "Lease",
    "LocalMarket",
    "LogLine",
    "Market",
    "MarketState",
    "Offer",
    "Order",
    "Outcome",
    "Progress",
    "Screening",
    "Silent",
    "Standing",
    "Verdicts",
]
