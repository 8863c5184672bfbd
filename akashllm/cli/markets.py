"""The markets by name."""

from __future__ import annotations

from collections.abc import Sequence

from akashllm.errors import MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.local import LocalMarket
from akashllm.state import Home

NAMES = ("local", "console", "wallet")
DEFAULT = "console"
"""A deployment goes to Akash unless one says otherwise."""

_MISSING = {
    "console": "the market `console` (Akash's Console and its API key) is not in this version",
    "wallet": "the market `wallet` (your own keys and the provider-services command) is not in this version",
}


def market_named(name: str, home: Home, *, port: int | None = None) -> Market:
    """The market of that name. Raises `UsageError` for no market, `MarketError` for one that is not here."""
    if name == "local":
        return LocalMarket(home.local, port=port)
    if name in _MISSING:
        raise MarketError(
            _MISSING[name],
            hint="`akashllm deploy --market local` runs the model on this machine; `akashllm render --model M`"
            " writes an SDL that you can deploy by hand",
        )
    raise UsageError("no market has that name", hint=f"use one of {', '.join(NAMES)}")


def markets_here(home: Home) -> Sequence[Market]:
    """Every market that can be asked what it holds."""
    return [market_named("local", home)]
