"""The one service that this machine runs for a deployment: read from the manifest, with a port of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from akashllm.errors import MarketError
from akashllm.market.base import Bid, Offer, Screening

HOST = "127.0.0.1"
"""Where services of this machine listen."""

HOPELESS = frozenset({2, 78})
"""Exit statuses of a service that can never start as it is set up: usage, and EX_CONFIG of sysexits.h."""


def only_service(manifest: str) -> Mapping[str, Any]:
    """The service of a manifest that has one. Raises `MarketError`."""
    try:
        services = [service for group in json.loads(manifest) for service in group["services"]]
    except (ValueError, TypeError, KeyError) as error:
        raise MarketError(f"the manifest is malformed ({error})", hint="deploy again") from error
    if len(services) != 1:
        raise MarketError(
            f"the SDL has {len(services)} services, and this machine runs one",
            hint="deploy it to Akash, or leave one service in it",
        )
    service: Mapping[str, Any] = services[0]
    return service


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Its variables."""
    try:
        pairs = [entry.partition("=") for entry in service.get("env") or ()]
    except AttributeError as error:
        raise MarketError(f"the manifest is malformed ({error})", hint="deploy again") from error
    return {name: value for name, _, value in pairs}


def port_for(wanted: int | None, before: int | None) -> int:
    """The port that was asked for, else the one of before while it can be had, else any."""
    if wanted:
        return wanted
    if before and is_free(before):
        return before
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int, host: str = HOST) -> bool:
    """Whether the port can be bound now. SO_REUSEADDR: connections of the last run may linger."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_bid(provider: str) -> Bid:
    """What this machine bids: nothing is charged."""
    return Bid(provider=provider, amount=Decimal(0), denom="free", audited=True, region="here")


def here(provider: str) -> Screening:
    """This machine would serve."""
    return Screening(offers=(Offer(provider=provider, region="here", audited=True),))


def now() -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
