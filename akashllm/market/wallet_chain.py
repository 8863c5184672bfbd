"""What the chain says through Akash's command line: deployments, leases, bids, accounts. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from akashllm.errors import MarketUnavailable
from akashllm.market.base import Bid
from akashllm.market.console_errors import NotThere, cleaned
from akashllm.market.console_read import DeploymentRead, LeaseRead, amount_of, bids_of, items, mapping
from akashllm.market.wallet_cli import Cli
from akashllm.market.wallet_errors import refusal
from akashllm.market.wallet_journal import Account
from akashllm.market.wallet_read import answer, deployment, rows
from akashllm.market.wallet_words import Grammar, LeaseAt

_PAGES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Asks with one command."""

    cli: Cli
    grammar: Grammar
    _providers: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def balances(self, account: Account) -> Mapping[str, Decimal]:
        """What the account holds, by denomination."""
        text = self._query(self.grammar.balances(account.address), "query bank balances", account)
        found, _ = rows(text, "balances", "query bank balances")
        return {
            str(mapping(coin).get("denom")): amount_of(mapping(coin).get("amount")) or Decimal(0)
            for coin in found
        }

    def read(self, account: Account, dseq: str) -> DeploymentRead:
        """A deployment with its leases. Raises `NotThere`."""
        call = "query deployment"
        whole = answer(self._query(self.grammar.deployment(account.address, dseq), call, account), call)
        call = "query market lease"
        leases, _ = rows(self._query(self.grammar.leases(account.address, dseq), call, account), "leases", call)
        return deployment(whole, leases)

    def find(self, account: Account, dseq: str) -> DeploymentRead | None:
        """As `read`; None where the chain says that there is none."""
        try:
            return self.read(account, dseq)
        except NotThere:
            return None

    def open(self, account: Account) -> Iterator[DeploymentRead]:
        """Every open deployment, page by page."""
        seen, call = 0, "query deployment list"
        for _ in range(_PAGES):
            text = self._query(self.grammar.deployments(account.address, seen), call, account)
            found, more = rows(text, "deployments", call)
            yield from (one for one in (deployment(mapping(whole)) for whole in found) if one.open)
            seen += len(found)
            if not found or not more:
                return

    def bids(self, account: Account, dseq: str, *, audited: bool) -> Sequence[Bid]:
        """Open bids, with what the providers registered."""
        call = "query market bid"
        found, _ = rows(self._query(self.grammar.bids(account.address, dseq), call, account), "bids", call)
        return [replace(bid, audited=audited, region=self._region(bid.provider)) for bid in bids_of(found)]

    def asked(self, lease: LeaseRead, at: LeaseAt) -> LeaseRead:
        """The lease with what the provider says of it, if it says anything."""
        ran = self.cli(self.grammar.status(at))
        if ran.status == 0:
            with suppress(MarketUnavailable):
                told = answer(ran.out, "lease-status")
                services = told.get("services")
                if isinstance(services, dict):
                    return replace(lease, services=services, ports=mapping(told.get("forwarded_ports")))
        return lease

    def _query(self, words: Sequence[str], call: str, account: Account) -> str:
        ran = self.cli(words)
        if ran.status != 0:
            error = refusal(ran, call, account.key)
            if isinstance(error, MarketUnavailable):
                # A question changes nothing, whatever became of it.
                error.acted = False
            raise error
        return ran.out

    def _region(self, provider: str) -> str:
        if provider not in self._providers:
            ran = self.cli(self.grammar.provider(provider))
            told: Mapping[str, Any] = {}
            with suppress(MarketUnavailable):
                told = answer(ran.out, "query provider") if ran.status == 0 else {}
            self._providers[provider] = mapping(told.get("provider")) or told
        attributes = {
            str(mapping(one).get("key")): str(mapping(one).get("value"))
            for one in items(self._providers[provider].get("attributes"))
        }
        return cleaned(attributes.get("location-region") or attributes.get("region") or "")
