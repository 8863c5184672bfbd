"""What stands behind the API: an account, its deployments with their escrow, bids and leases."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from akashllm.errors import BadSdl, UsageError
from akashllm.sdl import fill, group_specs, load, manifest_hash, manifest_json
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH
from akashllm.sdl.secrets import SEALED
from akashllm.testing.market.providers import Provider
from akashllm.testing.market.sealing import BadSeal, opened

OWNER = "akash1qypqxpq9qcrsszg2pvxq6rs0zqg3yyc5lzv7xu"
MIN_DEPOSIT = Decimal("0.5")
"""US dollars: what an order takes at least (chain's MinDeposit)."""

UNSTABLE = "lease_closed_reason_unstable"
NO_FUNDS = "lease_closed_reason_insufficient_funds"
BY_OWNER = "lease_closed_reason_owner"


class Refused(Exception):
    """The market says no: a status, and Console's message."""

    def __init__(self, status: int, message: str, code: str = "bad_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Which API is spoken. The defaults are the one of August 2026; `newer()` is the one after it.

    takes_deposit     `deposit` counts; else every deployment is funded by itself
    wants_manifest    a lease without a manifest is refused; else it is derived from the SDL
    keeps_names       `name` is kept and listed
    limits_runtime    `runtimeLimitHours` closes the deployment by itself
    seals_secrets     `sealedSecrets` are opened for the provider's manifest, and nowhere else
    """

    takes_deposit: bool = True
    wants_manifest: bool = True
    hands_manifest: bool = True
    keeps_names: bool = False
    limits_runtime: bool = False
    seals_secrets: bool = False

    @classmethod
    def newer(cls) -> Shape:
        """Automatic funding, derived manifests, names, runtime limits."""
        return cls(
            takes_deposit=False,
            wants_manifest=False,
            hands_manifest=False,
            keeps_names=True,
            limits_runtime=True,
            seals_secrets=True,
        )


@dataclass(kw_only=True)
class Bidding:
    """A provider's bid."""

    provider: Provider
    state: str = "open"


@dataclass(kw_only=True)
class Leased:
    """A lease. `manifest` is None until the provider has it."""

    provider: Provider
    price: Decimal
    state: str = "active"
    reason: str | None = None
    manifest: str | None = None
    hours: Decimal = Decimal(0)

    def services(self, named: str = "") -> list[str]:
        """What runs under it, by its manifest; of that what is named, with commas in between."""
        groups = json.loads(self.manifest or "[]")
        found = [service["name"] for group in groups for service in group["services"]]
        return [name for name in found if not named or name in named.split(",")]


@dataclass(kw_only=True)
class Deployed:
    """A deployment; `escrow` and `spent` are in US dollars."""

    dseq: str
    sdl: str
    manifest: str
    digest: str
    groups: list[dict[str, Any]]
    escrow: Decimal
    spent: Decimal = Decimal(0)
    name: str | None = None
    limit: int | None = None
    state: str = "active"
    bids: list[Bidding] = field(default_factory=list)
    leases: list[Leased] = field(default_factory=list)
    looks: int = 0
    height: int = 0


@dataclass
class World:
    """One account. Every method is one step that either happens or does not.

    bids_after     how often bids are looked for before the first is there
    certificates   what the chain publishes of each provider: base64 of PEM
    """

    providers: Sequence[Provider] = ()
    balance: Decimal = Decimal(100)
    shape: Shape = field(default_factory=Shape)
    bids_after: int = 0
    certificates: dict[str, list[str]] = field(default_factory=dict)
    deployments: dict[str, Deployed] = field(default_factory=dict)
    created: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()

    # --- what Console does -------------------------------------------------------------------------------

    def create(self, data: dict[str, Any], dseq: str | None = None) -> Deployed:
        """Open an order: money moves into escrow, and providers may bid.

        dseq   the number, where the owner chooses it; an order that has it already is refused
        """
        try:
            sdl = load(self._resolved(data))
        except BadSdl as error:
            raise Refused(400, f"Invalid SDL: {error.message}") from None
        deposit = Decimal(str(data.get("deposit", MIN_DEPOSIT))) if self.shape.takes_deposit else MIN_DEPOSIT
        if deposit < MIN_DEPOSIT:
            raise Refused(400, "Deposit too low")
        with self.lock:
            if self.balance < deposit:
                raise Refused(402, "Not enough balance to create the deployment", "unknown_error")
            if dseq in self.deployments:
                raise Refused(400, "Deployment exists")
            number = int(dseq or time.time() * 1000)
            while str(number) in self.deployments:
                number += 1
            self.created += 1
            deployed = Deployed(
                dseq=str(number),
                sdl=data["sdl"],
                manifest=manifest_json(sdl).decode(),
                digest=manifest_hash(sdl),
                groups=group_specs(sdl),
                escrow=deposit,
                name=data.get("name") if self.shape.keeps_names else None,
                limit=data.get("runtimeLimitHours") if self.shape.limits_runtime else None,
                height=20_000_000 + self.created,
            )
            self.balance -= deposit
            deployed.bids = [
                Bidding(provider=one)
                for one in self.providers
                if all(one.could_serve(group) for group in deployed.groups)
            ]
            self.deployments[deployed.dseq] = deployed
            return deployed

    def bids(self, dseq: str) -> list[Bidding]:
        """Bids of audited providers, as Console shows them."""
        with self.lock:
            deployed = self.get(dseq)
            deployed.looks += 1
            if deployed.looks <= self.bids_after:
                return []
            return [bid for bid in deployed.bids if bid.provider.audited]

    def lease(self, dseq: str, address: str, manifest: str | None) -> Deployed:
        """Take a bid, unless it is taken, and hand the manifest over."""
        with self.lock:
            self.take(dseq, address)
            if manifest is None and self.shape.wants_manifest:
                raise Refused(400, "Validation error", "validation_error")
        return self.hand(dseq, address, manifest)

    def take(self, dseq: str, address: str) -> Leased:
        """Take a bid, unless it is taken. The provider has no manifest yet."""
        with self.lock:
            deployed = self.get(dseq)
            if deployed.state != "active":
                raise Refused(400, "deployment closed")
            leased = next((one for one in deployed.leases if one.provider.address == address), None)
            if leased is None:
                leased = self._take(deployed, address)
            if leased.state != "active":
                raise Refused(400, "lease is not active")
            return leased

    def hand(self, dseq: str, address: str, manifest: str | None) -> Deployed:
        """Give the provider of a lease its manifest: the container is started, or exchanged for another."""
        with self.lock:
            deployed = self.get(dseq)
            leased = next((one for one in self._active(deployed) if one.provider.address == address), None)
            if leased is None:
                raise Refused(404, "no lease for deployment", "not_found")
            if leased.provider.behaviour == "unreachable":
                raise Refused(502, "manifest_not_delivered", "service_unavailable")
            manifest = deployed.manifest if manifest is None else manifest
            if json.loads(manifest) != json.loads(deployed.manifest):
                raise Refused(422, "manifest version validation failed")
            before, leased.manifest = leased.manifest, manifest
            if leased.provider.behaviour == "unstable":
                leased.state, leased.reason = "closed", UNSTABLE
        if leased.provider.behaviour == "runs":
            if before is None or before == manifest:
                leased.provider.runner.start(dseq, deployed.sdl, manifest)
            else:
                leased.provider.runner.update(dseq, deployed.sdl, manifest)
        return deployed

    def update(self, dseq: str, sdl: str) -> Deployed:
        """Another SDL for the same resources: its version goes to the chain, its manifest to the provider."""
        deployed = self.revise(dseq, sdl)
        for leased in list(self._active(deployed)):
            self.hand(dseq, leased.provider.address, deployed.manifest)
        return deployed

    def revise(self, dseq: str, sdl: str) -> Deployed:
        """The chain's part of an update. The provider goes on with what it has."""
        try:
            made = load(sdl)
        except BadSdl as error:
            raise Refused(400, f"Invalid SDL: {error.message}") from None
        with self.lock:
            deployed = self.get(dseq)
            if deployed.state != "active":
                raise Refused(400, "deployment closed")
            if group_specs(made) != deployed.groups:
                raise Refused(400, "groups are different than existing deployment, you cannot update groups")
            deployed.sdl, deployed.manifest = sdl, manifest_json(made).decode()
            deployed.digest = manifest_hash(made)
        return deployed

    def close(self, dseq: str) -> None:
        """End it: what is left in escrow goes back."""
        with self.lock:
            deployed = self.get(dseq)
            for leased in self._end(deployed, BY_OWNER):
                leased.provider.runner.stop(dseq)

    def get(self, dseq: str) -> Deployed:
        """One deployment, open or closed."""
        deployed = self.deployments.get(dseq)
        if deployed is None:
            raise Refused(404, "Deployment not found", "not_found")
        return deployed

    # --- what a test asks or makes happen -------------------------------------------------------------------

    def open(self) -> set[str]:
        """Numbers of deployments that hold money in escrow."""
        with self.lock:
            return {dseq for dseq, one in self.deployments.items() if one.state == "active"}

    def total(self) -> Decimal:
        """All the money there is: none is ever made or lost but what leases cost."""
        with self.lock:
            return self.balance + sum((one.escrow for one in self.deployments.values()), Decimal(0))

    def advance(self, hours: int) -> None:
        """Let time pass: leases cost money, and end when there is none, or at their limit."""
        with self.lock:
            for deployed in list(self.deployments.values()):
                for leased in list(self._active(deployed)):
                    price = leased.price * BLOCKS_AN_HOUR / MILLIONTH
                    for _ in range(hours):
                        leased.hours += 1
                        due = min(price, deployed.escrow)
                        deployed.escrow -= due
                        deployed.spent += due
                        limit = deployed.limit is not None and leased.hours >= deployed.limit
                        if limit or not deployed.escrow:
                            self._end(deployed, BY_OWNER if limit else NO_FUNDS)
                            leased.provider.runner.stop(deployed.dseq)
                            break

    def provider(self, address: str) -> Provider:
        """By address."""
        for one in self.providers:
            if one.address == address:
                return one
        raise Refused(404, "Provider not found", "not_found")

    def clear(self) -> None:
        """End everything that runs."""
        for dseq in self.open():
            self.close(dseq)

    def hash_of(self, deployed: Deployed) -> str:
        """The version on the chain, as its REST interface spells it."""
        return base64.b64encode(bytes.fromhex(deployed.digest)).decode()

    def _resolved(self, data: dict[str, Any]) -> str:
        """The SDL with its sealed secrets in place of their references."""
        text: str = data["sdl"]
        if not self.shape.seals_secrets or "sealedSecrets" not in data:
            return text
        try:
            values = opened(data["sealedSecrets"], text)
            return fill(re.sub(rf"{SEALED}(\w+)", r"${\1}", text), values)
        except BadSeal as error:
            raise Refused(error.status, str(error)) from None
        except UsageError as error:
            raise Refused(400, f"Invalid SDL: {error.message}") from None

    def _take(self, deployed: Deployed, address: str) -> Leased:
        bid = next((one for one in deployed.bids if one.provider.address == address), None)
        if bid is None or bid.state != "open" or bid.provider.behaviour == "bid-gone":
            raise Refused(400, "bid is not open: Bid is no longer open")
        if any(one.state == "active" for one in deployed.leases):
            raise Refused(400, "order already matched")
        for other in deployed.bids:
            other.state = "lost"
        bid.state = "active"
        leased = Leased(provider=bid.provider, price=Decimal(bid.provider.price))
        deployed.leases.append(leased)
        return leased

    def _end(self, deployed: Deployed, reason: str) -> list[Leased]:
        running = list(self._active(deployed))
        for leased in running:
            leased.state, leased.reason = "closed", reason
        deployed.state = "closed"
        self.balance += deployed.escrow
        deployed.escrow = Decimal(0)
        return running

    def _active(self, deployed: Deployed) -> Iterator[Leased]:
        return (one for one in deployed.leases if one.state == "active")
