"""Console's answers as ours: what is needed is demanded, what is new or missing elsewhere is let pass.

Numbers may come as text and text as numbers; names are those of both API shapes that Console has had.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from akashllm.market.base import Bid, Replicas, Terms
from akashllm.market.console_errors import cleaned, nonsense
from akashllm.sdl.quantities import BLOCKS_AN_HOUR

_MANY = 10_000
_MOST_DIGITS = 40

CLOSE_REASONS = {
    "owner": "you closed it, or its time was up",
    "unstable": "the provider gave up: the container was not available for some minutes (a slow image, a crash,"
    " too little memory)",
    "decommission": "the provider was taken out of service",
    "unspecified": "the provider closed it without a reason",
    "manifest_timeout": "the provider did not get the manifest in time",
    "insufficient_funds": "the money in escrow was used up",
    "reclaim": "the provider took its machine back",
}
"""Lease close reasons of the chain (akash.market.v1), for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRead:
    """A lease as Console lists it. `services` is None while the provider tells nothing of it."""

    provider: str
    gseq: int
    oseq: int
    state: str
    amount: Decimal
    denom: str
    reason: str
    services: Mapping[str, Any] | None
    ports: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRead:
    """A deployment as Console lists it: its manifest's `digest` in base64, money by denomination."""

    dseq: str
    state: str
    digest: str
    name: str | None
    leases: tuple[LeaseRead, ...]
    funds: Mapping[str, Decimal]
    spent: Mapping[str, Decimal]

    @property
    def open(self) -> bool:
        """Whether it may hold money."""
        return self.state != "closed"

    @property
    def lease(self) -> LeaseRead | None:
        """The lease that counts: the active one, else the last."""
        active = [one for one in self.leases if one.state == "active"]
        known = active or self.leases
        return known[-1] if known else None

    @property
    def hours(self) -> float | None:
        """How long the escrow lasts at the lease's price."""
        lease = self.lease
        if lease is None or lease.state != "active" or not lease.amount > 0:
            return None
        funds = self.funds.get(lease.denom)
        return None if funds is None else float(funds / lease.amount / BLOCKS_AN_HOUR)

    @property
    def terms(self) -> Terms | None:
        """What it costs, once it has a lease; escrow and spending as of the chain's last settlement."""
        lease = self.lease
        if lease is None or not lease.denom:
            return None
        return Terms(
            denom=lease.denom,
            block=lease.amount,
            escrow=self.funds.get(lease.denom),
            spent=self.spent.get(lease.denom),
        )


def data_of(body: Any, call: str) -> Any:
    """What is in the envelope."""
    if not isinstance(body, dict) or "data" not in body:
        raise nonsense(call)
    return body["data"]


def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> Sequence[Any]:
    """The list, or an empty one for anything else; never endless."""
    return value[:_MANY] if isinstance(value, list) else ()


def number(value: Any) -> str:
    """A dseq as text; empty where it is none."""
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return text if text.isascii() and text.isdigit() and len(text) <= 20 else ""


def amount_of(value: Any) -> Decimal | None:
    """An exact amount, from text or a number; None where it is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    # Arithmetic with anything beyond that would overflow, and it is no price of anything.
    return found if found.is_finite() and abs(found.adjusted()) <= _MOST_DIGITS else None


def deployment_of(value: Any, call: str) -> DeploymentRead:
    """One deployment, of any of the replies that hold one."""
    whole = mapping(value)
    inner = mapping(whole.get("deployment"))
    dseq = number(mapping(inner.get("id")).get("dseq"))
    state = inner.get("state")
    if not dseq or not isinstance(state, str):
        raise nonsense(call)
    name = whole.get("name")
    account = mapping(mapping(whole.get("escrow_account")).get("state"))
    return DeploymentRead(
        dseq=dseq,
        state=state,
        digest=str(inner.get("hash") or ""),
        name=name if isinstance(name, str) else None,
        leases=tuple(_leases(whole.get("leases"))),
        funds=_coins(account.get("funds")),
        spent=_coins(account.get("transferred")),
    )


def bids_of(data: Any) -> Iterator[Bid]:
    """Open bids; one that has no provider or no price is left out."""
    for entry in items(data):
        bid = mapping(mapping(entry).get("bid"))
        names = mapping(bid.get("id"))
        price = mapping(bid.get("price"))
        amount = amount_of(price.get("amount"))
        provider, denom = names.get("provider"), price.get("denom")
        if bid.get("state") != "open" or amount is None or not _word(provider) or not _word(denom):
            continue
        yield Bid(
            provider=str(provider),
            amount=amount.normalize() if amount else Decimal(0),
            denom=str(denom),
            gseq=_small(names.get("gseq"), 1),
            oseq=_small(names.get("oseq"), 1),
            bseq=_small(names.get("bseq"), 0),
            gpu=_gpu(bid.get("resources_offer")),
        )


def reason_of(lease: LeaseRead) -> str:
    """Why a lease ended, for a person."""
    word = lease.reason.removeprefix("lease_closed_reason_")
    return CLOSE_REASONS.get(word, cleaned(word.replace("_", " ")) if word else "the lease is closed")


def address_of(lease: LeaseRead) -> str | None:
    """The service's URL, or None while it has none.

    A provider names bare hosts, which speak https. A whole URL is believed only if it is https without a path
    or credentials, or plain http on loopback. A port that was forwarded is plain http on the provider's host.
    """
    for service in (lease.services or {}).values():
        for uri in items(mapping(service).get("uris")):
            if isinstance(uri, str) and (url := _url(uri)):
                return url
    for ports in lease.ports.values():
        for port in items(ports):
            host, external = mapping(port).get("host"), mapping(port).get("externalPort")
            if _word(host) and isinstance(external, int) and 0 < external < 65536:
                return _url(f"http://{host}:{external}", plain=True)
    return None


def replicas_of(lease: LeaseRead) -> tuple[Replicas, ...]:
    """How many containers of each service the provider says are up."""
    return tuple(
        Replicas(
            service=cleaned(str(name)),
            ready=max(
                _small(said.get(key), 0) for key in ("available", "ready_replicas", "available_replicas")
            ),
            wanted=max(_small(said.get(key), 0) for key in ("total", "replicas")),
        )
        for name, said in ((name, mapping(said)) for name, said in (lease.services or {}).items())
    )


def _url(text: str, *, plain: bool = False) -> str | None:
    whole = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError:
        return None
    loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    good = parts.scheme == "https" or (parts.scheme == "http" and (loopback or plain))
    bare = not (parts.username or parts.password or parts.query or parts.fragment) and parts.path in {"", "/"}
    if not good or not bare or not parts.hostname or not _word(parts.netloc):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _leases(value: Any) -> Iterator[LeaseRead]:
    for entry in items(value):
        lease = mapping(entry)
        names, price, status = (mapping(lease.get(field)) for field in ("id", "price", "status"))
        if not _word(names.get("provider")):
            continue
        services = status.get("services")
        yield LeaseRead(
            provider=str(names["provider"]),
            gseq=_small(names.get("gseq"), 1),
            oseq=_small(names.get("oseq"), 1),
            state=str(lease.get("state") or ""),
            amount=amount_of(price.get("amount")) or Decimal(0),
            denom=str(price.get("denom") or ""),
            reason=str(lease.get("reason") or ""),
            services=services if isinstance(services, dict) else None,
            ports=mapping(status.get("forwarded_ports")),
        )


def _coins(value: Any) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for entry in items(value):
        coin = mapping(entry)
        amount = amount_of(coin.get("amount"))
        if amount is not None and _word(coin.get("denom")):
            found[coin["denom"]] = found.get(coin["denom"], Decimal(0)) + amount
    return found


def _gpu(offers: Any) -> str:
    """`vendor/nvidia/model/h100/ram/80Gi` -> h100, if every offered unit names one and the same."""
    models = set()
    for offer in items(offers):
        gpu = mapping(mapping(mapping(offer).get("resources")).get("gpu"))
        for attribute in items(gpu.get("attributes")):
            parts = str(mapping(attribute).get("key", "")).split("/")
            if len(parts) >= 4 and parts[2] == "model" and parts[3] != "*":
                models.add(parts[3].lower())
    return cleaned(models.pop()) if len(models) == 1 else ""


def _small(value: Any, usual: int) -> int:
    text = number(value)
    return int(text) if text else usual


def _word(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value.isascii()
        and value.isprintable()
        and not set(value) & set(" <>\"'\\`")
    )


def manifest_of(value: Any) -> str | None:
    """The manifest that Console made, if it made one; it must be the list that providers take."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        groups = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(groups, list) and groups else None
