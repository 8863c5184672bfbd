"""The markets by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from akashllm.errors import KeyRefused, MarketError, UsageError
from akashllm.market.base import Market
from akashllm.market.local import LocalMarket
from akashllm.state import Deployment, Home

if TYPE_CHECKING:
    from akashllm.cli.wallet import Signing
    from akashllm.market.console import ConsoleMarket

NAMES = ("local", "docker", "console", "wallet")
DEFAULT = "console"
"""A deployment goes to Akash unless one says otherwise."""

_WANTED = {
    "docker": "start the Docker engine it runs in, or name its address in DOCKER_HOST",
    "console": "`akashllm login` stores Console's key",
    "wallet": "use the AKASHLLM_HOME it was deployed with",
}


def market_named(
    name: str,
    home: Home,
    *,
    port: int | None = None,
    hours: int | None = None,
    signing: Signing | None = None,
) -> Market:
    """The market of that name. Raises `UsageError` for no market."""
    if name == "local":
        return LocalMarket(home.local, port=port)
    if name == "docker":
        from akashllm.market.container import ContainerMarket

        return ContainerMarket(home.containers, port=port)
    if name == "console":
        return console_market(home, hours=hours)
    if name == "wallet":
        from akashllm.cli.wallet import wallet_market

        return wallet_market(home, signing)
    raise UsageError("no market has that name", hint=f"use one of {', '.join(NAMES)}")


def markets_here(home: Home) -> Sequence[Market]:
    """Every market that can be asked what it holds: this machine, its Docker engine and the wallet where they
    were ever used, Console where there is a key for it, or an order that was begun with one: then it is said
    that it was not asked.
    """
    from akashllm.market.console_key import find_key

    begun = any((home.root / "console" / "orders").glob("*.json"))

    names = ["local"]
    names += ["docker"] if home.containers.is_dir() else []
    names += ["console"] if begun or find_key(home) is not None else []
    names += ["wallet"] if (home.root / "wallet").is_dir() else []
    return [market_named(name, home) for name in names]


def market_of(markets: Mapping[str, Market], row: Deployment) -> Market:
    """The market a deployment is on. Raises `MarketError` with what is wanted for it."""
    market = markets.get(row.market)
    if market is None:
        raise MarketError(
            f"{row.name} is on the market {row.market}, which cannot be asked from here",
            hint=_WANTED.get(row.market, "upgrade akashllm: this version does not know that market"),
        )
    return market


def console_market(home: Home, *, hours: int | None = None) -> ConsoleMarket:
    """Console, with whatever key this user has; without one it still tells what is public."""
    from akashllm.market.console import ConsoleMarket
    from akashllm.market.console_http import ConsoleHttp
    from akashllm.market.console_journal import Journal
    from akashllm.market.console_key import find_key

    http = ConsoleHttp(find_key(home))
    return ConsoleMarket(http=http, journal=Journal(home.root / "console" / "orders"), hours=hours)


def require_key(market: Market) -> None:
    """Raise `KeyRefused` where nothing could be ordered for want of a key."""
    from akashllm.market.console import ConsoleMarket
    from akashllm.market.console_key import WHERE

    if isinstance(market, ConsoleMarket) and not market.http.has_key:
        raise KeyRefused(
            "there is no API key for Akash's Console", hint=f"{WHERE}; `--market local` runs it on this machine"
        )


def hang_up(markets: Iterable[Market]) -> None:
    """Close connections that a command has used."""
    from akashllm.market.console import ConsoleMarket

    for market in markets:
        if isinstance(market, ConsoleMarket):
            market.close_connections()
