"""The arguments of each call, in the grammar of either command.

provider-services   cmd/provider-services of akash-network/provider, go/cli of akash-network/chain-sdk
akt                 internal/cli of akash-network/akt (July 2026), which takes numbers as words instead of flags

Every word that could be mistaken for a flag stands behind `--` or is one of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from akashllm.market.wallet_cli import Name

_JSON = ("-o", "json")
_PAGE = "100"
_SIGNED = ("-y", *_JSON)
_ANY = ("--gseq", "0", "--oseq", "0")
"""Of any group and order: left out, both flags mean the first, and one that is opened again is the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAt:
    """A lease by its numbers, with the key of its owner."""

    key: str
    dseq: str
    provider: str
    gseq: int = 1
    oseq: int = 1


class Grammar(Protocol):
    """How to say it. Each answers the arguments after the command's own name."""

    def address(self, key: str) -> list[str]:
        """The address of a key."""
        ...

    def balances(self, address: str) -> list[str]:
        """What an account holds."""
        ...

    def tx(self, digest: str) -> list[str]:
        """A transaction by its hash."""
        ...

    def deployment(self, owner: str, dseq: str) -> list[str]:
        """One deployment."""
        ...

    def deployments(self, owner: str, offset: int) -> list[str]:
        """The open deployments of an owner, without the first ones.

        Counted, because the command takes the key of a page as raw bytes, and prints it in base64.
        """
        ...

    def bids(self, owner: str, dseq: str) -> list[str]:
        """Open bids."""
        ...

    def leases(self, owner: str, dseq: str) -> list[str]:
        """All leases of a deployment."""
        ...

    def provider(self, address: str) -> list[str]:
        """What a provider registered."""
        ...

    def create(self, key: str, sdl: Path, dseq: str, deposit: Decimal) -> list[str]:
        """Open an order; `deposit` is in ACT."""
        ...

    def lease(self, lease: LeaseAt) -> list[str]:
        """Take a bid."""
        ...

    def update(self, key: str, sdl: Path, dseq: str) -> list[str]:
        """Put another version on the chain."""
        ...

    def close(self, key: str, dseq: str) -> list[str]:
        """End a deployment."""
        ...

    def manifest(self, lease: LeaseAt, sdl: Path) -> list[str]:
        """Hand the manifest to the provider."""
        ...

    def status(self, lease: LeaseAt) -> list[str]:
        """What the provider says of a lease."""
        ...

    def logs(self, lease: LeaseAt, *, follow: bool, tail: int | None, service: str | None = None) -> list[str]:
        """What the services wrote, or one of them."""
        ...

    def events(self, lease: LeaseAt, *, follow: bool) -> list[str]:
        """What the provider's cluster tells."""
        ...

    def shell(
        self, lease: LeaseAt, service: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> list[str]:
        """Run a command in a container, on the terminal here and with its input where they are wanted."""
        ...


def coins(act: Decimal) -> str:
    """An amount of ACT as the chain spells it."""
    return f"{int(act * 1_000_000)}uact"


class ProviderServices:
    """Of provider-services."""

    def address(self, key: str) -> list[str]:
        """`keys show`."""
        return ["keys", "show", "-a", "--", key]

    def balances(self, address: str) -> list[str]:
        """`query bank balances`."""
        return ["query", "bank", "balances", address, *_JSON]

    def tx(self, digest: str) -> list[str]:
        """`query tx`."""
        return ["query", "tx", digest, *_JSON]

    def deployment(self, owner: str, dseq: str) -> list[str]:
        """`query deployment get`."""
        return ["query", "deployment", "get", "--owner", owner, "--dseq", dseq, *_JSON]

    def deployments(self, owner: str, offset: int) -> list[str]:
        """`query deployment list`."""
        words = ["query", "deployment", "list", "--owner", owner, "--state", "active", "--limit", _PAGE, *_JSON]
        return [*words, "--offset", str(offset)] if offset else words

    def bids(self, owner: str, dseq: str) -> list[str]:
        """`query market bid list`."""
        asked = ["--owner", owner, "--dseq", dseq, "--state", "open"]
        return ["query", "market", "bid", "list", *asked, *_ANY, *_JSON]

    def leases(self, owner: str, dseq: str) -> list[str]:
        """`query market lease list`."""
        return ["query", "market", "lease", "list", "--owner", owner, "--dseq", dseq, *_ANY, *_JSON]

    def provider(self, address: str) -> list[str]:
        """`query provider get`."""
        return ["query", "provider", "get", address, *_JSON]

    def create(self, key: str, sdl: Path, dseq: str, deposit: Decimal) -> list[str]:
        """`tx deployment create`."""
        about = ["--dseq", dseq, "--deposit", coins(deposit), "--from", key]
        return ["tx", "deployment", "create", str(sdl), *about, *_SIGNED]

    def lease(self, lease: LeaseAt) -> list[str]:
        """`tx market lease create`."""
        return ["tx", "market", "lease", "create", *_lease(lease), *_SIGNED]

    def update(self, key: str, sdl: Path, dseq: str) -> list[str]:
        """`tx deployment update`."""
        return ["tx", "deployment", "update", str(sdl), "--dseq", dseq, "--from", key, *_SIGNED]

    def close(self, key: str, dseq: str) -> list[str]:
        """`tx deployment close`."""
        return ["tx", "deployment", "close", "--dseq", dseq, "--from", key, *_SIGNED]

    def manifest(self, lease: LeaseAt, sdl: Path) -> list[str]:
        """`send-manifest`."""
        return ["send-manifest", str(sdl), *_lease(lease), *_JSON]

    def status(self, lease: LeaseAt) -> list[str]:
        """`lease-status`, which has no other output than JSON."""
        return ["lease-status", *_lease(lease)]

    def logs(self, lease: LeaseAt, *, follow: bool, tail: int | None, service: str | None = None) -> list[str]:
        """`lease-logs`."""
        return ["lease-logs", *_lease(lease), *_JSON, *_followed(follow=follow, tail=tail), *_of(service)]

    def events(self, lease: LeaseAt, *, follow: bool) -> list[str]:
        """`lease-events`."""
        return ["lease-events", *_lease(lease), *_followed(follow=follow, tail=None)]

    def shell(
        self, lease: LeaseAt, service: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> list[str]:
        """`lease-shell`."""
        wanted = [*(["--tty"] if tty else []), *(["--stdin"] if stdin else [])]
        return ["lease-shell", *_lease(lease), *wanted, "--", service, *command]


class Akt(ProviderServices):
    """Of akt, where it differs."""

    def deployment(self, owner: str, dseq: str) -> list[str]:
        """`query deployment OWNER/DSEQ`."""
        return ["query", "deployment", f"{owner}/{dseq}", *_JSON]

    def deployments(self, owner: str, offset: int) -> list[str]:
        """`query deployment OWNER active`."""
        words = ["query", "deployment", owner, "active", "--limit", _PAGE, *_JSON]
        return [*words, "--offset", str(offset)] if offset else words

    def bids(self, owner: str, dseq: str) -> list[str]:
        """`query market bid OWNER/DSEQ open`."""
        return ["query", "market", "bid", f"{owner}/{dseq}", "open", *_JSON]

    def leases(self, owner: str, dseq: str) -> list[str]:
        """`query market lease OWNER/DSEQ`."""
        return ["query", "market", "lease", f"{owner}/{dseq}", *_JSON]

    def provider(self, address: str) -> list[str]:
        """`query provider`."""
        return ["query", "provider", address, *_JSON]

    def update(self, key: str, sdl: Path, dseq: str) -> list[str]:
        """`tx deployment update FILE DSEQ`."""
        return ["tx", "deployment", "update", str(sdl), dseq, "--from", key, *_SIGNED]

    def close(self, key: str, dseq: str) -> list[str]:
        """`tx deployment close DSEQ`."""
        return ["tx", "deployment", "close", dseq, "--from", key, *_SIGNED]

    def manifest(self, lease: LeaseAt, sdl: Path) -> list[str]:
        """`provider send-manifest`."""
        about = ["--dseq", lease.dseq, "--provider", lease.provider, "--from", lease.key]
        return ["provider", "send-manifest", str(sdl), *about]

    def status(self, lease: LeaseAt) -> list[str]:
        """`provider lease-status DSEQ`."""
        return ["provider", "lease-status", *_at(lease), *_JSON]

    def logs(self, lease: LeaseAt, *, follow: bool, tail: int | None, service: str | None = None) -> list[str]:
        """`provider lease-logs DSEQ`."""
        shown = [*_followed(follow=follow, tail=tail), *_of(service)]
        return ["provider", "lease-logs", *_at(lease), *_JSON, *shown]

    def events(self, lease: LeaseAt, *, follow: bool) -> list[str]:
        """`provider lease-events DSEQ`."""
        return ["provider", "lease-events", *_at(lease), *_JSON, *_followed(follow=follow, tail=None)]

    def shell(
        self, lease: LeaseAt, service: str, command: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> list[str]:
        """`provider lease-shell`."""
        about = ["--service", service, f"--tty={str(tty).lower()}", f"--stdin={str(stdin).lower()}"]
        return ["provider", "lease-shell", *_lease(lease), *about, "--", *command]


def grammar(name: Name) -> Grammar:
    """Of that command."""
    return Akt() if name == "akt" else ProviderServices()


def _lease(lease: LeaseAt) -> list[str]:
    return [
        *("--dseq", lease.dseq, "--gseq", str(lease.gseq), "--oseq", str(lease.oseq)),
        *("--provider", lease.provider, "--from", lease.key),
    ]


def _at(lease: LeaseAt) -> list[str]:
    numbers = ["--gseq", str(lease.gseq), "--oseq", str(lease.oseq)]
    return [lease.dseq, *numbers, "--provider", lease.provider, "--from", lease.key]


def _of(service: str | None) -> list[str]:
    return ["--service", service] if service else []


def _followed(*, follow: bool, tail: int | None) -> list[str]:
    return [*(["--follow"] if follow else []), *(["--tail", str(tail)] if tail is not None else [])]
