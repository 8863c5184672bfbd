"""Who signs: the key that was named, the accounts that were used before, and whose a deployment is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from akashllm.errors import KeyRefused, MarketError, MarketUnavailable, UsageError
from akashllm.market.console_read import DeploymentRead
from akashllm.market.wallet_chain import Chain
from akashllm.market.wallet_errors import refusal
from akashllm.market.wallet_journal import Account, Ordered, Orders

_BEHIND = 3600.0
"""Seconds for which a node may be behind the chain."""

_ADDRESS = re.compile(r"^akash1[02-9ac-hj-np-z]{38,58}$", re.MULTILINE)
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@ -]{0,127}")


@dataclass(kw_only=True)
class Accounts:
    """Of one command. `key` is a name in its keyring or an address; empty: the one that was used last."""

    chain: Chain
    orders: Orders
    key: str = ""
    _signer: Account | None = None

    def signer(self) -> Account:
        """Who signs. Raises `KeyRefused` where the keyring does not know the key."""
        if self._signer is None:
            self._signer = self._known() or self._asked()
        return self._signer

    def used(self) -> list[Account]:
        """Every account that was used here before on this chain, and the one that is named."""
        found = {one.address: one for one in reversed(self.orders.accounts()) if self._here(one)}
        if self._signer is not None or self.key:
            signer = self.signer()
            found.setdefault(signer.address, signer)
        return list(found.values())

    def owner(self, dseq: str) -> tuple[Account, Ordered | None]:
        """Whose deployment it is. Raises `MarketError` for one of another chain."""
        order = self.orders.numbered(dseq)
        if order is not None:
            self.check(order)
            return order.account, order
        for account in filter(self._here, self.orders.accounts()):
            if self.chain.find(account, dseq) is not None:
                return account, None
        return self.signer(), None

    def check(self, order: Ordered) -> None:
        """Raise `MarketError` for an order of another chain."""
        if not self._here(order.account):
            here, there = self.chain.cli.chain, order.account.chain
            raise MarketError(
                f"deployment {order.dseq} is on the chain {there}, and AKASH_CHAIN_ID names {here}",
                hint=f"AKASH_CHAIN_ID={there}, and AKASH_NODE of that chain",
            )

    def find(self, account: Account, dseq: str, order: Ordered | None) -> DeploymentRead | None:
        """A deployment that was seen before; None where it is certain that there is none.

        The chain forgets none, so one that was ordered here is only not seen, by a node that is behind: for so
        long `MarketUnavailable` is raised.
        """
        found = self.chain.find(account, dseq)
        if found is None and order is not None and not order.unsure and self.orders.age(order) < _BEHIND:
            raise MarketUnavailable(
                f"the node does not show deployment {dseq}, which the chain has: it is behind",
                hint="run the same command again in a few minutes; AKASH_NODE may name another node",
            )
        return found

    def free_number(self, account: Account) -> str:
        """A number that nothing of this account has."""
        taken = {one.dseq for one in self.orders.all()}
        number = time.time_ns() // 1_000_000
        while str(number) in taken or self.chain.find(account, str(number)) is not None:
            number += 1
        return str(number)

    def _here(self, account: Account) -> bool:
        return account.chain == self.chain.cli.chain

    def _known(self) -> Account | None:
        wanted = (one for one in self.orders.accounts() if self.key in {"", one.key, one.address})
        return next(filter(self._here, wanted), None)

    def _asked(self) -> Account:
        """The account of the key, as the keyring tells it."""
        if not self.key:
            raise KeyRefused(
                "no key was named to sign with", hint="--from NAME; `provider-services keys list` shows them"
            )
        if not _KEY.fullmatch(self.key):
            raise UsageError("--from takes the name of a key or its address, not the key itself")
        cli = self.chain.cli
        cli.check()
        ran = cli(self.chain.grammar.address(self.key))
        found = _ADDRESS.search(ran.out)
        if ran.status != 0:
            raise refusal(ran, "keys show", self.key)
        if found is None:
            raise KeyRefused(f"the keyring does not tell the address of {self.key!r}", hint="check --from")
        return Account(key=self.key, address=found[0], chain=cli.chain)
