"""Providers: what they bid, what they do with a lease, and how they run a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from akashllm.market.base import Market
from akashllm.market.local import SERVICE, LocalMarket

Behaviour = Literal["runs", "never-starts", "unstable", "bid-gone", "unreachable"]
"""`never-starts` leaves the service unavailable, `unstable` ends the lease, `bid-gone` has taken its bid back,
`unreachable` takes the lease but not the manifest."""


class Runner(Protocol):
    """Runs manifests."""

    def start(self, dseq: str, sdl: str, manifest: str) -> None:
        """Run it, unless it runs."""
        ...

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Run another manifest in its place, at the same address."""
        ...

    def url(self, dseq: str) -> str | None:
        """Where it answers."""
        ...

    def stop(self, dseq: str) -> None:
        """End it, if it runs."""
        ...

    def lines(self, dseq: str) -> Sequence[str]:
        """What it wrote."""
        ...


@dataclass
class PaperRunner:
    """Runs nothing, and says that it does."""

    address: str = "http://127.0.0.1:9"
    running: dict[str, str] = field(default_factory=dict)

    def start(self, dseq: str, sdl: str, manifest: str) -> None:
        """Noted."""
        del sdl
        self.running[dseq] = manifest

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Noted."""
        self.start(dseq, sdl, manifest)

    def url(self, dseq: str) -> str | None:
        """The address."""
        return self.address if dseq in self.running else None

    def stop(self, dseq: str) -> None:
        """Forgotten."""
        self.running.pop(dseq, None)

    def lines(self, dseq: str) -> Sequence[str]:
        """One line."""
        return [f"deployment {dseq} runs on paper"]


class MarketRunner:
    """Runs the manifest by a market of this machine, on a port of its own."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self._numbers: dict[str, str] = {}

    def start(self, dseq: str, sdl: str, manifest: str) -> None:
        """As that market does it."""
        if dseq not in self._numbers:
            self._numbers[dseq] = self.market.create(sdl, reference=f"lease-{dseq}").dseq
        number = self._numbers[dseq]
        self.market.lease(number, self.market.bids(number)[0], manifest)

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """What runs is ended, and started anew."""
        self.market.update(self._numbers[dseq], sdl, manifest)

    def url(self, dseq: str) -> str | None:
        """Loopback, with a scheme: a real provider gives a bare host name and TLS."""
        number = self._numbers.get(dseq)
        return None if number is None else self.market.status(number).url

    def stop(self, dseq: str) -> None:
        """Whatever runs of it."""
        number = self._numbers.pop(dseq, None)
        if number is not None:
            self.market.close(number)

    def lines(self, dseq: str) -> Sequence[str]:
        """Its log."""
        number = self._numbers.get(dseq)
        return [] if number is None else [line.text for line in self.market.logs(number)]


class LocalRunner(MarketRunner):
    """As a supervised process."""

    def __init__(
        self, root: Path, *, command: Sequence[str] = SERVICE, policy: dict[str, Any] | None = None
    ) -> None:
        super().__init__(LocalMarket(root, command=command, policy=policy))


class ContainerRunner(MarketRunner):
    """As a container of a Docker engine, which pulls the manifest's image as a provider does."""

    def __init__(self, root: Path, *, environ: Mapping[str, str] | None = None) -> None:
        from akashllm.market.container import ContainerMarket

        super().__init__(ContainerMarket(root, environ=environ))


@dataclass(kw_only=True)
class Provider:
    """One provider of the market. `price` is in `denom` a block for the whole order; `gpu` is model/ram."""

    address: str
    price: str = "10"
    denom: str = "uact"
    audited: bool = True
    region: str = "us-west"
    gpu: str = ""
    uptime: float = 1.0
    incidents: int = 0
    host_uri: str = "https://127.0.0.1:8443"
    behaviour: Behaviour = "runs"
    runner: Runner = field(default_factory=PaperRunner)

    def could_serve(self, group: dict[str, Any]) -> bool:
        """Whether it would bid on a group of an SDL: signatures, attributes, GPU."""
        wants = group.get("requirements") or {}
        signed = wants.get("signed_by") or wants.get("signedBy") or {}
        if not self.audited and (signed.get("any_of") or signed.get("anyOf")):
            return False
        for attribute in wants.get("attributes") or ():
            if attribute["key"].endswith("region") and attribute["value"] != self.region:
                return False
        return all(self._has_gpu(unit["resource"]["gpu"]) for unit in group["resources"])

    def _has_gpu(self, gpu: dict[str, Any]) -> bool:
        if int(gpu["units"]["val"]) == 0:
            return True
        return any(
            attribute["key"].endswith("/*") or f"/{self.gpu.split('/')[0]}" in attribute["key"]
            for attribute in gpu.get("attributes") or ()
            if self.gpu
        )
