"""The market `wallet`: Akash with keys of one's own, through Akash's own command line.

Nothing here signs or sees a key. Written against the source of provider-services, of its command-line library
and of akt of summer 2026; tried against a stand-in with their grammar only, never against the chain.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal

from akashllm.errors import AkashllmError, BidGone, MarketError, MarketUnavailable, ProviderFailed
from akashllm.market.base import Balance, Bid, Created, Held, Lease, LogLine, Screening, Standing
from akashllm.market.clock import Clock, RealClock
from akashllm.market.console_read import LeaseRead
from akashllm.market.leased import as_lease, leased, running, standing_of
from akashllm.market.wallet_account import Accounts
from akashllm.market.wallet_chain import Chain
from akashllm.market.wallet_cli import Cli
from akashllm.market.wallet_errors import AlreadyClosed, certainly_not
from akashllm.market.wallet_gateway import WalletGateway
from akashllm.market.wallet_journal import Account, Ordered, Orders
from akashllm.market.wallet_tx import BLOCK, Transactions
from akashllm.market.wallet_words import Grammar, LeaseAt, grammar
from akashllm.sdl import load, manifest_hash, manifest_json
from akashllm.sdl.quantities import MILLIONTH
from akashllm.sdl.types import Sdl
from akashllm.state.private import write_private

DEPOSIT = Decimal(5)
"""ACT, each a US dollar, that go into escrow unless somebody says otherwise."""

_MINT = "provider-services tx bme mint-act 10000000uakt --from {key} turns ten AKT into ACT"
_LOOKS = 4
_HANDOVERS = 3
_LOST = 3600.0
"""Seconds after which a transaction that is in no block will be in none: mempools drop it long before."""


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
    _accounts: Accounts = field(init=False)

    name = "wallet"
    charges = True

    def __post_init__(self) -> None:
        chain = Chain(cli=self.cli, grammar=grammar(self.cli.name))
        self._accounts = Accounts(chain=chain, orders=self.orders, key=self.key)

    # --- before anything costs money -----------------------------------------------------------------------

    def account(self) -> Account:
        """Who signs. Raises `KeyRefused` where the keyring does not know the key."""
        return self._accounts.signer()

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
            self._accounts.check(earlier)
            found = self._chain.find(earlier.account, earlier.dseq)
            if found is not None and found.open and found.digest == digest:
                self._seen(earlier)
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
            dseq=earlier.dseq if earlier else self._accounts.free_number(account),
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
            self._seen(order)
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
        account, order = self._accounts.owner(dseq)
        return self._chain.bids(account, dseq, audited=order is not None and order.audited)

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Take the bid and hand the manifest over.

        Each attempt is preceded by a look at the chain: an order matches once, so that taking the bid again
        can only complete what is missing. Raises `BidGone`, or `ProviderFailed` where the provider does not
        take the manifest.
        """
        del manifest
        account, order = self._accounts.owner(dseq)
        problem: AkashllmError = MarketUnavailable("the lease was not tried")
        for attempt in range(_HANDOVERS):
            if attempt:
                self.clock.sleep(BLOCK)
            try:
                lease = self._taken(dseq, bid, account, order)
            except MarketUnavailable as error:
                problem = error
                continue
            if order is None or not self.orders.sdl(order).exists():
                return lease
            try:
                self._gateway(account).hand(lease, self.orders.sdl(order))
            except ProviderFailed as error:
                problem = error
                continue
            self.orders.delivered(order)
            return lease
        if not isinstance(problem, ProviderFailed):
            raise problem
        raise ProviderFailed(
            f"the provider {bid.provider} does not take the manifest: {problem.message}",
            hint="deploy again: another provider will be tried",
        )

    def _taken(self, dseq: str, bid: Bid, account: Account, order: Ordered | None) -> Lease:
        """The lease, of now or of before."""
        found = self._leased(dseq, account, order)
        if found is None:
            target = LeaseAt(key=account.key, dseq=dseq, provider=bid.provider, gseq=bid.gseq, oseq=bid.oseq)
            problem: AkashllmError | None = None
            try:
                self._tx.send(self.grammar.lease(target), "tx market lease create", account.key)
            except (MarketUnavailable, BidGone) as error:
                problem = error
            found = self._leased(dseq, account, order)
            if found is None:
                raise problem or MarketUnavailable(
                    f"the lease of deployment {dseq} was taken, but the node does not show it yet", acted=None
                )
        return as_lease(dseq, found)

    # --- while it runs ------------------------------------------------------------------------------------

    def status(self, dseq: str) -> Standing:
        """What the chain and the provider say."""
        account, order = self._accounts.owner(dseq)
        found = self._accounts.find(account, dseq, order)
        return standing_of(dseq, found, lambda lease: self._chain.asked(lease, _at(dseq, lease, account)))

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """From the provider, as the command fetches them."""
        gateway, lease = self.gateway(dseq)
        return gateway.logs(lease, follow=follow, tail=tail)

    def gateway(self, dseq: str) -> tuple[WalletGateway, Lease]:
        """The provider that runs a deployment, and the lease to ask it about."""
        account, _ = self._accounts.owner(dseq)
        lease = running(dseq, self._chain.read(account, dseq))
        return self._gateway(account), as_lease(dseq, lease)

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Another version of the same resources: first on the chain, then at the provider."""
        del manifest
        account, order = self._accounts.owner(dseq)
        if order is None:
            raise MarketError(
                f"deployment {dseq} was not made here", hint="update it with the tool that made it"
            )
        found = self._chain.read(account, dseq)
        lease = running(dseq, found)
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
                    self._gateway(account).hand(as_lease(dseq, lease), path)
                except MarketError:
                    if attempt + 1 == _HANDOVERS:
                        raise
                else:
                    return
        finally:
            path.unlink(missing_ok=True)

    def close(self, dseq: str) -> None:
        """End it and get the rest of the escrow back; certain only once the chain shows it closed."""
        account, order = self._accounts.owner(dseq)
        found = self._accounts.find(account, dseq, order)
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
            if found is not None and not found.open:
                self.orders.ended(dseq)
                return
        raise problem or MarketUnavailable(
            f"deployment {dseq} is still open", hint=f"run `akashllm close {dseq}` again", acted=None
        )

    def holdings(self) -> Sequence[Held]:
        """Every open deployment of every account that was used here; those begun here with their reference."""
        by_dseq = {(one.account.address, one.dseq): one.reference for one in self.orders.all()}
        held = [
            Held(dseq=one.dseq, state="open", reference=by_dseq.get((account.address, one.dseq)))
            for account in self._accounts.used()
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
        return self._accounts.chain

    @property
    def _tx(self) -> Transactions:
        return Transactions(cli=self.cli, grammar=self.grammar, clock=self.clock)

    def _gateway(self, account: Account) -> WalletGateway:
        return WalletGateway(cli=self.cli, grammar=self.grammar, key=account.key)

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

    def _seen(self, order: Ordered) -> None:
        """The chain has shown it."""
        if order.unsure:
            self.orders.write(replace(order, unsure=False))

    def _leased(self, dseq: str, account: Account, order: Ordered | None) -> LeaseRead | None:
        return leased(dseq, self._accounts.find(account, dseq, order))


def _digest(sdl: Sdl) -> str:
    return base64.b64encode(bytes.fromhex(manifest_hash(sdl))).decode()


def _audited(sdl: Sdl) -> bool:
    """Whether the chain lets only audited providers bid."""
    return all(one.any_of or one.all_of for one in sdl.placement.values())


def _at(dseq: str, lease: LeaseRead, account: Account) -> LeaseAt:
    return LeaseAt(key=account.key, dseq=dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)
