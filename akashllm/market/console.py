"""The market `console`: Akash through Console's managed-wallet API, with a key instead of a wallet.

Written against Console's published contract and its source of August 2026, and against what is known of the API
after it; tried against the testing market only, never against the live service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any

from akashllm.errors import MarketError, MarketUnavailable, ProviderFailed
from akashllm.market.base import (
    Balance,
    Bid,
    Created,
    Held,
    Lease,
    Limit,
    LogLine,
    Screening,
    Standing,
)
from akashllm.market.clock import Clock, RealClock
from akashllm.market.console_errors import NotThere, cleaned, nonsense
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_journal import Journal
from akashllm.market.console_order import BETWEEN, DEPLOYMENT, ConsoleOrders
from akashllm.market.console_read import (
    LeaseRead,
    amount_of,
    bids_of,
    data_of,
    deployment_of,
    mapping,
    number,
)
from akashllm.market.console_screen import Screen
from akashllm.market.gateway import Gateway
from akashllm.market.leased import as_lease, leased, running, standing_of
from akashllm.market.seal import sealed_order
from akashllm.sdl import fill

_TOKEN_SECONDS = 300
_HANDOVERS = 3
_SETTINGS = "/v2/deployment-settings/{}"


@dataclass(kw_only=True)
class ConsoleMarket:
    """One account. A context manager.

    deposit   US dollars for a deployment; None: Console funds it by itself
    hours     Console is told to close the deployment after so many, where it can
    """

    http: ConsoleHttp
    journal: Journal
    deposit: Decimal | None = None
    hours: int | None = None
    clock: Clock = field(default_factory=RealClock)
    _providers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _incidents: dict[str, int] = field(default_factory=dict)

    name = "console"
    charges = True

    def close_connections(self) -> None:
        """Nothing is left open on this side."""
        self.http.close()

    # --- before anything costs money -----------------------------------------------------------------------

    def balance(self) -> Balance:
        """`GET /v1/balances`, in US dollars."""
        data = mapping(data_of(self.http.get("/v1/balances"), "GET /v1/balances"))
        available_ = amount_of(data.get("balance"))
        if available_ is None:
            raise nonsense("GET /v1/balances")
        return Balance(available=available_, committed=amount_of(data.get("deployments")) or Decimal(0))

    def gpu_prices(self) -> Mapping[str, Any]:
        """`GET /v1/gpu-prices`, which needs no key: what `make_plan(prices=...)` takes."""
        return mapping(self.http.get("/v1/gpu-prices", key=False, tries=1))

    def screen(self, sdl: str) -> Screening:
        """Who could serve it; not known where Console does not say."""
        screening = Screen(self.http)(sdl)
        self._incidents.update({offer.provider: offer.incidents for offer in screening.offers})
        return screening

    # --- from an order to a lease -----------------------------------------------------------------------------

    def create(self, sdl: str, *, reference: str, deposit: Decimal | None = None) -> Created:
        """Open an order, once: what an earlier call may have opened is looked for first and afterwards."""
        return self._ordered(sdl, {"sdl": sdl}, reference, deposit)

    def create_sealed(self, sdl: str, secrets: Mapping[str, str], *, reference: str) -> Created:
        """As `create`; where Console offers it, it gets the secrets sealed, and no manifest from here later."""
        filled = fill(sdl, secrets)
        sent = sealed_order(self.http, sdl, secrets)
        if sent is None:
            plain = self._ordered(filled, {"sdl": filled}, reference)
            return replace(plain, note="this Console does not take sealed secrets: it sees them in the SDL")
        return replace(self._ordered(filled, sent, reference), manifest="")

    def _ordered(
        self, sdl: str, sent: Mapping[str, Any], reference: str, deposit: Decimal | None = None
    ) -> Created:
        data: dict[str, Any] = {**sent, "name": reference}
        if self.hours is not None:
            data["runtimeLimitHours"] = self.hours
        if (deposit := deposit or self.deposit) is not None:
            data["deposit"] = float(deposit)
        return self._orders.once(sdl, data, reference)

    def bids(self, dseq: str) -> Sequence[Bid]:
        """Open bids, with what is publicly known of the providers."""
        reply = self.http.get("/v1/bids", {"dseq": dseq})
        return [self._described(bid) for bid in bids_of(data_of(reply, "GET /v1/bids"))]

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Take the bid and hand the manifest over.

        Each attempt is preceded by a look at what there is: an order matches once, so that taking the same bid
        again can only complete what is missing. Raises `BidGone`, or `ProviderFailed` where the provider does
        not take the manifest.
        """
        problem: MarketUnavailable | None = None
        for attempt in range(_HANDOVERS):
            if attempt:
                self.clock.sleep(BETWEEN)
            try:
                taken = self._taken(dseq, bid, manifest)
            except MarketUnavailable as error:
                problem = error
                continue
            if taken is not None:
                return as_lease(dseq, taken)
        if problem is not None and self._orders.read(dseq).lease is None:
            raise problem
        raise ProviderFailed(
            f"the provider {bid.provider} does not take the manifest",
            hint="deploy again: another provider will be tried",
        )

    def _taken(self, dseq: str, bid: Bid, manifest: str) -> LeaseRead | None:
        """The lease, of now or of before."""
        active = leased(dseq, self._orders.read(dseq))
        if active is not None and active.services is not None:
            return active
        target = active or bid
        wanted = {"dseq": dseq, "gseq": target.gseq, "oseq": target.oseq, "provider": target.provider}
        # Without one Console makes it from the SDL that it keeps, and opens the secrets for it.
        handed = {"manifest": manifest} if manifest else {}
        reply = self.http.post("/v1/leases", {**handed, "leases": [wanted]})
        return deployment_of(data_of(reply, "POST /v1/leases"), "POST /v1/leases").lease

    # --- while it runs ------------------------------------------------------------------------------------

    def status(self, dseq: str) -> Standing:
        """What Console and, through it, the provider say."""
        try:
            found = self._orders.read(dseq)
        except NotThere:
            found = None
        return standing_of(dseq, found)

    def limit(self, dseq: str) -> Limit | None:
        """When Console itself will close it (`GET /v2/deployment-settings/{dseq}`); None: it will not."""
        try:
            found = mapping(mapping(self.http.get(_SETTINGS.format(dseq))).get("data"))
        except NotThere:
            return None
        hours = number(found.get("runtimeLimitHours"))
        ends = found.get("runtimeEndsAt")
        return Limit(hours=int(hours), ends=cleaned(ends) if isinstance(ends, str) else None) if hours else None

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """From the provider's gateway, with a token that Console makes."""
        gateway, lease = self.gateway(dseq)
        return gateway.logs(lease, follow=follow, tail=tail)

    def gateway(self, dseq: str) -> tuple[Gateway, Lease]:
        """The gateway of the provider that runs a deployment, and the lease to ask it about."""
        lease = running(dseq, self._orders.read(dseq))
        host = self.provider(lease.provider).get("hostUri")
        if not isinstance(host, str) or not host:
            raise MarketUnavailable(
                f"Console does not say where the provider {lease.provider} is", hint="try again later"
            )
        return Gateway(host, lease.provider, partial(self.token, lease.provider)), as_lease(dseq, lease)

    def token(self, provider: str, scopes: Sequence[str]) -> str:
        """A JWT that is good for `scopes` at one provider, for five minutes (`POST /v1/create-jwt-token`)."""
        permission = {"provider": provider, "access": "scoped", "scope": list(scopes)}
        leases = {"access": "granular", "permissions": [permission]}
        # A token changes nothing, and one that was lost in a reply does no harm: it is asked for again.
        reply = self.http.ask("/v1/create-jwt-token", {"data": {"ttl": _TOKEN_SECONDS, "leases": leases}})
        token = mapping(data_of(reply, "POST /v1/create-jwt-token")).get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise nonsense("POST /v1/create-jwt-token")
        return token

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """`PUT /v1/deployments/{dseq}`: another image or environment, the same resources."""
        del manifest
        self.http.put(DEPLOYMENT.format(dseq), {"data": {"sdl": sdl}})

    def close(self, dseq: str) -> None:
        """End it and get the rest of the escrow back; certain only once Console has said so."""
        try:
            data = mapping(self.http.delete(DEPLOYMENT.format(dseq))).get("data")
            if mapping(data).get("success") is not True and self._orders.still_open(dseq):
                raise nonsense("DELETE /v1/deployments/{dseq}")
        except NotThere:
            self._orders.believe(dseq)
        except MarketError:
            if self._orders.still_open(dseq):
                raise
        self.journal.ended(dseq)

    def holdings(self) -> Sequence[Held]:
        """Every open deployment of the account; those begun here with their reference."""
        open_ = list(self._orders.open())
        references = self.journal.references(open_)
        return [
            Held(
                dseq=one.dseq,
                state="open" if one.lease is None else "running" if one.lease.state == "active" else "failed",
                reference=references.get(one.dseq),
            )
            for one in open_
        ]

    # --- parts --------------------------------------------------------------------------------------------

    @property
    def _orders(self) -> ConsoleOrders:
        return ConsoleOrders(http=self.http, journal=self.journal, clock=self.clock)

    def provider(self, address: str) -> Mapping[str, Any]:
        """`GET /v1/providers/{address}`, which needs no key; empty where Console does not say."""
        if address not in self._providers:
            try:
                self._providers[address] = mapping(self.http.get(f"/v1/providers/{address}", key=False))
            except (NotThere, MarketUnavailable):
                return {}
        return self._providers[address]

    def _described(self, bid: Bid) -> Bid:
        known = self.provider(bid.provider)
        uptime = amount_of(known.get("uptime7d"))
        region = known.get("locationRegion") or known.get("ipRegion") or known.get("ipCountry") or ""
        return replace(
            bid,
            audited=known.get("isAudited") is True,
            region=cleaned(str(region)),
            uptime=None if uptime is None else float(uptime),
            incidents=self._incidents.get(bid.provider, 0),
        )
