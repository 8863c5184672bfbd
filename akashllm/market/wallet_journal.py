"""What was begun with a wallet: one small private file for each order, written before anything is signed.

The owner of a deployment chooses its number, and the chain takes each number once. So the number is chosen and
written down first: what a lost reply may have opened is looked for under it, and an order that is sent again
under it can never open a second deployment. An SDL with its secrets filled in is kept beside it, mode 0600, for
as long as the provider may not have its manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akashllm.errors import StateError
from akashllm.state.home import private_directory
from akashllm.state.private import read_private, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who signs: a key of the command's own keyring, its address, and the chain it is used on."""

    key: str
    address: str
    chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """An order. `digest` is the manifest's hash in base64; `unsure` says that a reply was lost."""

    reference: str
    dseq: str
    digest: str
    account: Account
    audited: bool = False
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Orders:
    """The directory that holds them, and the accounts that were ever used."""

    root: Path

    def read(self, reference: str) -> Ordered | None:
        """The order of that reference."""
        path = self._path(reference)
        return _ordered(path) if path.exists() else None

    def numbered(self, dseq: str) -> Ordered | None:
        """The order of that number."""
        return next((one for one in self.all() if one.dseq == dseq), None)

    def all(self) -> Sequence[Ordered]:
        """Every order that was not ended."""
        orders = self.root / "orders"
        return [_ordered(path) for path in sorted(orders.glob("*.json"))] if orders.is_dir() else []

    def write(self, order: Ordered, sdl: str | None = None) -> Ordered:
        """Keep it; with its SDL where the provider is still to get the manifest."""
        self._prepare()
        if sdl is not None:
            write_private(self.sdl(order), sdl)
        write_private(self._path(order.reference), json.dumps(dataclasses.asdict(order)) + "\n")
        return order

    def sdl(self, order: Ordered) -> Path:
        """Where its SDL is, while the provider may not have the manifest."""
        return self._path(order.reference).with_suffix(".yaml")

    def delivered(self, order: Ordered) -> None:
        """The provider has the manifest: the secrets need not lie here any longer."""
        self.sdl(order).unlink(missing_ok=True)

    def forget(self, reference: str) -> None:
        """Nothing of it is left at the market."""
        path = self._path(reference)
        path.with_suffix(".yaml").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def drop(self, chain: str, known: set[str], *, older: float) -> None:
        """Forget orders that never got a reply and that their chain does not have after so many seconds.

        One that lands later all the same is still listed, for the chain has it; only its secrets are gone here.
        """
        for order in self.all():
            lost = order.unsure and order.account.chain == chain and order.dseq not in known
            if lost and self.age(order) > older:
                self.forget(order.reference)

    def age(self, order: Ordered) -> float:
        """Seconds since its note was last written."""
        return max(0.0, time.time() - self._path(order.reference).stat().st_mtime)

    def ended(self, dseq: str) -> None:
        """The deployment of that number is closed."""
        if (order := self.numbered(dseq)) is not None:
            self.forget(order.reference)

    def accounts(self) -> Sequence[Account]:
        """Every account that was ever used here, the latest first: none is forgotten, each may hold money."""
        path = self.root / "accounts.json"
        return [Account(**one) for one in _json(path)] if path.exists() else []

    def use(self, account: Account) -> None:
        """Remember it, before it signs anything."""
        known = self.accounts()
        if not known or known[0] != account:
            rest = [dataclasses.asdict(one) for one in known if one != account]
            self._prepare()
            write_private(self.root / "accounts.json", json.dumps([dataclasses.asdict(account), *rest]) + "\n")

    def settings(self) -> dict[str, str]:
        """The `AKASH_*` settings that the latest deploy was given as options."""
        path = self.root / "settings.json"
        return {str(name): str(value) for name, value in _json(path).items()} if path.exists() else {}

    def keep(self, settings: dict[str, str]) -> None:
        """So that later commands need not be told."""
        if settings != self.settings():
            self._prepare()
            write_private(self.root / "settings.json", json.dumps(settings) + "\n")

    def _prepare(self) -> None:
        for directory in (self.root, self.root / "orders"):
            private_directory(directory)

    def _path(self, reference: str) -> Path:
        return self.root / "orders" / f"{hashlib.sha256(reference.encode()).hexdigest()[:32]}.json"


def _json(path: Path) -> Any:
    try:
        return json.loads(read_private(path))
    except ValueError as error:
        raise _damaged(path) from error


def _ordered(path: Path) -> Ordered:
    try:
        data = _json(path)
        return Ordered(**{**data, "account": Account(**data["account"])})
    except (TypeError, KeyError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> StateError:
    return StateError(f"{path} is damaged", hint="remove it; `akashllm list` shows what is open on the chain")
