"""The options of the market `wallet`: which key signs, on which chain, and what goes into escrow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from akashllm.errors import UsageError
from akashllm.state import Home

if TYPE_CHECKING:
    from akashllm.market.wallet import WalletMarket

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        envvar="AKASH_FROM",
        metavar="NAME",
        help="With --market wallet: the key of the keyring that signs.",
    ),
]
Deposit = Annotated[
    float | None,
    typer.Option(
        "--deposit",
        metavar="DOLLARS",
        min=0.5,
        help="With --market wallet: ACT that go into escrow; used up, the lease ends.  [default: 5]",
    ),
]
Keyring = Annotated[
    str | None,
    typer.Option(
        "--keyring-backend",
        metavar="NAME",
        help="With --market wallet: os, pass, test, ...  [default: AKASH_KEYRING_BACKEND]",
    ),
]
Node = Annotated[
    str | None,
    typer.Option(
        "--node", metavar="URL", help="With --market wallet: a node of the chain.  [default: AKASH_NODE]"
    ),
]
ChainId = Annotated[
    str | None,
    typer.Option(
        "--chain-id", metavar="ID", help="With --market wallet: the chain.  [default: AKASH_CHAIN_ID]"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """What was said about the wallet. None: whatever the environment or the last deploy says."""

    key: str | None = None
    deposit: float | None = None
    keyring: str | None = None
    node: str | None = None
    chain: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The options as the variables that Akash's command line reads."""
        named = {"AKASH_KEYRING_BACKEND": self.keyring, "AKASH_NODE": self.node, "AKASH_CHAIN_ID": self.chain}
        return {name: value for name, value in named.items() if value}


def wallet_market(home: Home, signing: Signing | None = None) -> WalletMarket:
    """The wallet: options go before the environment, and that before what the last deploy was told."""
    from akashllm.market.wallet import DEPOSIT, WalletMarket
    from akashllm.market.wallet_cli import find_cli
    from akashllm.market.wallet_journal import Orders

    signing = signing or Signing()
    orders = Orders(home.root / "wallet")
    kept = {name: value for name, value in orders.settings().items() if name not in os.environ}
    return WalletMarket(
        cli=find_cli(changes={**kept, **signing.settings}),
        orders=orders,
        key=signing.key or "",
        deposit=DEPOSIT if signing.deposit is None else Decimal(str(signing.deposit)),
    )


def ready(market: WalletMarket, signing: Signing, *, hours: int | None) -> str:
    """Check that it can sign, and remember how; what is to be said before money is spent."""
    if hours:
        raise UsageError(
            "--max-hours is Console's: the chain closes nothing by the clock",
            hint="--deposit limits what can be spent: the lease ends when it is used up",
        )
    market.cli.check()
    account = market.account()
    market.orders.keep({**market.orders.settings(), **signing.settings})
    return (
        f"wallet   {account.key} ({account.address}) on {account.chain} puts ${market.deposit:.2f} into escrow;"
        " what is left of it comes back"
    )
