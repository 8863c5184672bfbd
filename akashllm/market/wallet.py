"""The market `wallet`: Akash with keys of one's own, through Akash's own command line.

Nothing here signs or sees a key. Written against the source of provider-services, of its command-line library
and of akt of summer 2026; tried against a stand-in with their grammar only, never against the chain.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal

from akashllm.errors import (
    AkashllmError,
    BidGone,
    KeyRefused,
    MarketError,
    MarketUnavailable,
    ProviderFailed,
    UsageError,
)
from akashllm.market.base import Balance, Bid, Created, Held, Lease, LogLine, MarketState, Screening, Standing
from akashllm.market.clock import Clock, RealClock
from akashllm.market.console_errors import cleaned
from akashllm.market.console_read import (
    LeaseRead,
    address_of,
    available,
    items,
    mapping,
    reason_of,
)
from akashllm.market.wallet_chain import Chain
from akashllm.market.wallet_cli import Cli
from akashllm.market.wallet_errors import AlreadyClosed, certainly_not, refusal
from akashllm.market.wallet_gateway import WalletGateway
from akashllm.market.wallet_journal import Account, Ordered, Orders
from akashllm.market.wallet_read import documents
from akashllm.market.wallet_tx import BLOCK, Transactions
from akashllm.market.wallet_words import Grammar, LeaseAt, grammar
from akashllm.sdl import load, manifest_hash, manifest_json
from akashllm.sdl.quantities import MILLIONTH
from akashllm.sdl.types import Sdl
from akashllm.state.private import write_private

DEPOSIT = Decimal(5)
"""ACT, each a US dollar, that go into escrow unless somebody says otherwise."""

_MINT = "provider-services tx bme mint-act 10000000uakt --from {key} turns ten AKT into ACT"
_SUBMITTED = "Manifest submitted successfully"
"""All that akt prints; provider-services prints a list of results."""

_LOOKS = 4
_HANDOVERS = 3
_LOST = 3600.0
"""Seconds after which a transaction that is in no block will be in none: mempools drop it long before."""

_ADDRESS = re.compile(r"^akash1[02-9ac-hj-np-z]{38,58}$", re.MULTILINE)
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@ -]{0,127}")


@dataclass(kw_only=True)
class WalletMarket:
    """One key of the command's keyring, and every account that was used here before.

    key       its name in the keyring, or its address; empty: the one that was used last
    deposit   ACT that go into escrow for a deployment
    """

    cli: Cli
    orders: Orders
    key: str = ""
    deposit: Decimal = DEPOSIT
    clock: Clock = field(default_factory=RealClock)
    _account: Account | None = None
    _asking: Chain | None = None

    name = "wallet"
    charges = True

    # --- before anything costs money -----------------------------------------------------------------------

    def account(self) -> Account:
        """Who signs. Raises `KeyRefused` where the keyring does not know the key."""
        if self._account is not None:
            return self._account
        chain = self.cli.chain
        for known in self.orders.accounts():
            if known.chain == chain and self.key in {"", known.key, known.address}:
                self._account = known
                return known
        if not self.key:
            raise KeyRefused(
                "no key was named to sign with", hint="--from NAME; `provider-services keys list` shows them"
            )
        if not _KEY.fullmatch(self.key):
            raise UsageError("--from takes the name of a key or its address, not the key itself")
        self.cli.check()
        ran = self.cli(self.grammar.address(self.key))
        found = _ADDRESS.search(ran.out)
        if ran.status != 0 or found is None:
            if ran.status:
                raise refusal(ran, "keys show", self.key)
            raise KeyRefused(f"the keyring does not tell the address of {self.key!r}", hint="check --from")
        self._account = Account(key=self.key, address=found[0], chain=chain)
        return self._account

    def balance(self) -> Balance:
        """ACT in the account, and in the escrow of its deployments."""
        account = self.account()
        self.cli.check()
        held = self._chain.balances(account)
        committed = sum((one.funds.get("uact", Decimal(0)) for one in self._chain.open(account)), Decimal(0))
        return Balance(
            available=held.get("uact", Decimal(0)) / MILLIONTH,
            committed=committed / MILLIONTH,
            hint=_MINT.format(key=account.key) if held.get("uakt") else "",
        )

    def screen(self, sdl: str) -> Screening:
        """Nobody is asked: the chain knows only who has bid."""
        del sdl
        return Screening(offers=(), known=False)

    # --- from an order to a lease -----------------------------------------------------------------------------

    def create(self, sdl: str, *, reference: str, deposit: Decimal | None = None) -> Created:
        """Open an order under a number that is written down first."""
        made = load(sdl)
        digest, manifest = _digest(made), manifest_json(made).decode()
        account = self.account()
        earlier = self.orders.read(reference)
        if earlier is not None:
            self._same_chain(earlier)
            found = self._chain.find(earlier.account, earlier.dseq)
            if found is not None and found.open and found.digest == digest:
                return Created(dseq=earlier.dseq, manifest=manifest)
            if found is not None:
                # It was opened after all, but for another SDL, or is closed: its number is used up.
                self.close(earlier.dseq)
                earlier = None
        if earlier is not None and earlier.account != account:
            raise MarketError(
                f"an order of {earlier.account.key} was never answered, and this one is of {account.key}",
                hint=f"deploy with --from {earlier.account.key}, or close it first",
            )
        order = Ordered(
            reference=reference,
            dseq=earlier.dseq if earlier else self._free(account),
            digest=digest,
            account=account,
            audited=_audited(made),
            unsure=earlier is not None,
        )
        self.orders.use(account)
        self.orders.write(order, sdl)
        words = self.grammar.create(
            account.key, self.orders.sdl(order), order.dseq, self.deposit if deposit is None else deposit
        )
        problem: AkashllmError | None = None
        try:
            self._tx.send(words, "tx deployment create", account.key)
        except MarketError as error:
            problem = error
        refused = problem is not None and certainly_not(problem)
        if self._appeared(order, looks=1 if refused else _LOOKS):
            return Created(dseq=order.dseq, manifest=manifest)
        if not refused:
            self.orders.write(replace(order, unsure=True))
        elif not order.unsure:
            self.orders.forget(reference)
        raise problem or MarketUnavailable(
            f"the order {order.dseq} was carried out, but the node does not show it yet",
            hint="run the same command again in a minute",
            acted=None,
        )

    def bids(self, dseq: str) -> Sequence[Bid]:
        """Open bids, with what the providers registered on the chain."""
        account, order = self._owner(dseq)
        return self._chain.bids(account, dseq, audited=order is not None and order.audited)

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Take the bid and hand the manifest over.

        Each attempt is preceded by a look at the chain: an order matches once, so that taking the bid again
        can only complete what is missing. Raises `BidGone`, or `ProviderFailed` where the provider does not
        take the manifest.
        """
        del manifest
        account, order = self._owner(dseq)
        problem: AkashllmError | None = None
        for attempt in range(_HANDOVERS):
            if attempt:
                self.clock.sleep(BLOCK)
            lease = self._leased(dseq, account)
            if lease is None:
                target = LeaseAt(
                    key=account.key, dseq=dseq, provider=bid.provider, gseq=bid.gseq, oseq=bid.oseq
                )
                try:
                    self._tx.send(self.grammar.lease(target), "tx market lease create", account.key)
                except (MarketUnavailable, BidGone) as error:
                    problem = error
                lease = self._leased(dseq, account)
                if lease is None:
                    if isinstance(problem, BidGone):
                        raise problem
                    continue
            if order is None or not self.orders.sdl(order).exists():
                return _as_lease(dseq, lease)
            try:
                self._hand(dseq, lease, account, order)
            except MarketError as error:
                problem = error
                continue
            self.orders.delivered(order)
            return _as_lease(dseq, lease)
        if problem is not None and self._leased(dseq, account) is None:
            raise problem
        raise ProviderFailed(
            f"the provider {bid.provider} does not take the manifest"
            + (f": {problem.message}" if problem else ""),
            hint="deploy again: another provider will be tried",
        )

    # --- while it runs ------------------------------------------------------------------------------------

    def status(self, dseq: str) -> Standing:
        """What the chain and the provider say."""
        account, _ = self._owner(dseq)
        found = self._chain.find(account, dseq)
        if found is None:
            return Standing(dseq=dseq, state="closed", reason="the chain does not know this deployment")
        lease = found.lease
        if not found.open:
            why = reason_of(lease) if lease else "it was closed before it had a lease"
            return Standing(dseq=dseq, state="closed", provider=lease.provider if lease else "", reason=why)
        if lease is None:
            return Standing(dseq=dseq, state="open")
        if lease.state != "active":
            return Standing(dseq=dseq, state="failed", provider=lease.provider, reason=reason_of(lease))
        lease = self._chain.asked(lease, _at(dseq, lease, account))
        state: MarketState = "running" if available(lease) else "starting"
        return Standing(
            dseq=dseq,
            state=state,
            provider=lease.provider,
            url=address_of(lease),
            reason="" if state == "running" else "the provider has not started the container yet",
            hours=found.hours,
            terms=found.terms,
        )

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """From the provider, as the command fetches them."""
        gateway, lease = self.gateway(dseq)
        return gateway.logs(lease, follow=follow, tail=tail)

    def gateway(self, dseq: str) -> tuple[WalletGateway, Lease]:
        """The provider that runs a deployment, and the lease to ask it about."""
        account, _ = self._owner(dseq)
        lease = self._chain.read(account, dseq).lease
        if lease is None or lease.state != "active":
            why = reason_of(lease) if lease else "it has no lease"
            raise MarketError(
                f"no provider runs deployment {dseq} now: {why}",
                hint="a provider keeps no log of what has ended",
            )
        return WalletGateway(cli=self.cli, grammar=self.grammar, key=account.key), _as_lease(dseq, lease)

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Another version of the same resources: first on the chain, then at the provider."""
        del manifest
        account, order = self._owner(dseq)
        if order is None:
            raise MarketError(
                f"deployment {dseq} was not made here", hint="update it with the tool that made it"
            )
        found = self._chain.read(account, dseq)
        lease = found.lease
        if not found.open or lease is None or lease.state != "active":
            raise MarketError(f"no provider runs deployment {dseq} now", hint="deploy again")
        digest = _digest(load(sdl))
        path = self.orders.sdl(order)
        write_private(path, sdl)
        try:
            if found.digest != digest:
                words = self.grammar.update(account.key, path, dseq)
                problem: MarketUnavailable | None = None
                try:
                    self._tx.send(words, "tx deployment update", account.key)
                except MarketUnavailable as error:
                    problem = error
                if problem is not None and self._chain.read(account, dseq).digest != digest:
                    raise problem
                order = self.orders.write(replace(order, digest=digest))
            for attempt in range(_HANDOVERS):
                if attempt:
                    self.clock.sleep(BLOCK)
                try:
                    self._hand(dseq, lease, account, order)
                except MarketError:
                    if attempt + 1 == _HANDOVERS:
                        raise
                else:
                    return
        finally:
            path.unlink(missing_ok=True)

    def close(self, dseq: str) -> None:
        """End it and get the rest of the escrow back; certain only once the chain shows it closed."""
        account, _ = self._owner(dseq)
        found = self._chain.find(account, dseq)
        if found is None or not found.open:
            self.orders.ended(dseq)
            return
        problem: AkashllmError | None = None
        with suppress(AlreadyClosed):
            try:
                self._tx.send(self.grammar.close(account.key, dseq), "tx deployment close", account.key)
            except MarketUnavailable as error:
                problem = error
        for look in range(_LOOKS):
            if look:
                self.clock.sleep(BLOCK / 2)
            found = self._chain.find(account, dseq)
            if found is None or not found.open:
                self.orders.ended(dseq)
                return
        raise problem or MarketUnavailable(
            f"deployment {dseq} is still open", hint=f"run `akashllm close {dseq}` again", acted=None
        )

    def holdings(self) -> Sequence[Held]:
        """Every open deployment of every account that was used here; those begun here with their reference."""
        accounts = {one.address: one for one in reversed(self.orders.accounts()) if one.chain == self.cli.chain}
        if self._account is not None or self.key:
            account = self.account()
            accounts.setdefault(account.address, account)
        by_dseq = {(one.account.address, one.dseq): one.reference for one in self.orders.all()}
        held = [
            Held(dseq=one.dseq, state="open", reference=by_dseq.get((account.address, one.dseq)))
            for account in accounts.values()
            for one in self._chain.open(account)
        ]
        self.orders.drop(self.cli.chain, {one.dseq for one in held}, older=_LOST)
        return held

    # --- parts --------------------------------------------------------------------------------------------

    @property
    def grammar(self) -> Grammar:
        """Of the command that is installed."""
        return grammar(self.cli.name)

    @property
    def _chain(self) -> Chain:
        if self._asking is None or self._asking.cli is not self.cli:
            self._asking = Chain(cli=self.cli, grammar=self.grammar)
        return self._asking

    @property
    def _tx(self) -> Transactions:
        return Transactions(cli=self.cli, grammar=self.grammar, clock=self.clock)

    def _owner(self, dseq: str) -> tuple[Account, Ordered | None]:
        """Whose deployment it is. Raises `MarketError` for one of another chain."""
        order = self.orders.numbered(dseq)
        if order is not None:
            self._same_chain(order)
            return order.account, order
        accounts = [one for one in self.orders.accounts() if one.chain == self.cli.chain]
        for account in accounts:
            if self._chain.find(account, dseq) is not None:
                return account, None
        return self.account(), None

    def _same_chain(self, order: Ordered) -> None:
        if order.account.chain != self.cli.chain:
            raise MarketError(
                f"deployment {order.dseq} is on the chain {order.account.chain}, and AKASH_CHAIN_ID names"
                f" {self.cli.chain}",
                hint=f"AKASH_CHAIN_ID={order.account.chain}, and AKASH_NODE of that chain",
            )

    def _free(self, account: Account) -> str:
        """A number that nothing of this account has."""
        taken = {one.dseq for one in self.orders.all()}
        number = time.time_ns() // 1_000_000
        while str(number) in taken or self._chain.find(account, str(number)) is not None:
            number += 1
        return str(number)

    def _appeared(self, order: Ordered, *, looks: int) -> bool:
        """Whether the chain has the order. Where its reply was lost, a few blocks are waited for."""
        for look in range(looks):
            if look:
                self.clock.sleep(BLOCK / 2)
            with suppress(MarketUnavailable):
                found = self._chain.find(order.account, order.dseq)
                if found is not None and found.open and found.digest == order.digest:
                    return True
        return False

    def _leased(self, dseq: str, account: Account) -> LeaseRead | None:
        """The active lease, or None where there never was one."""
        found = self._chain.read(account, dseq)
        if not found.open:
            raise MarketError(f"deployment {dseq} is closed", hint="deploy again")
        lease = found.lease
        if lease is not None and lease.state != "active":
            raise ProviderFailed(f"the provider ended the lease: {reason_of(lease)}", hint="deploy again")
        return lease

    def _hand(self, dseq: str, lease: LeaseRead, account: Account, order: Ordered) -> None:
        at = _at(dseq, lease, account)
        ran = self.cli(self.grammar.manifest(at, self.orders.sdl(order)))
        results = [
            mapping(one) for found in documents(ran.out) if isinstance(found, list) for one in items(found)
        ]
        failed = [one for one in results if one.get("status") != "PASS"]
        # A success that does not name the provider is no word of the provider's.
        if ran.status == 0 and not failed and (results or _SUBMITTED in ran.out):
            return
        why = str(failed[0].get("errorMessage") or failed[0].get("error") or "") if failed else ran.words
        raise ProviderFailed(
            f"the provider {lease.provider} did not take the manifest: {cleaned(why) or 'it does not say why'}",
            hint="try again; the deployment stays as it is",
        )


def _digest(sdl: Sdl) -> str:
    return base64.b64encode(bytes.fromhex(manifest_hash(sdl))).decode()


def _audited(sdl: Sdl) -> bool:
    """Whether the chain lets only audited providers bid."""
    return all(one.any_of or one.all_of for one in sdl.placement.values())


def _as_lease(dseq: str, lease: LeaseRead) -> Lease:
    return Lease(dseq=dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)


def _at(dseq: str, lease: LeaseRead, account: Account) -> LeaseAt:
    return LeaseAt(key=account.key, dseq=dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)
