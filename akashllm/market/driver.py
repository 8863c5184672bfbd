"""What drives one deployment, and what its steps share: waiting, giving up, trying another provider."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from akashllm.errors import MarketError, MarketUnavailable, ProviderFailed
from akashllm.market.base import Market, Standing
from akashllm.market.clock import Clock, RealClock
from akashllm.market.order import ADMIN_KEY, API_KEY, Choose, Order, Verdicts, Verify, cheapest
from akashllm.market.probe import Health, probe
from akashllm.market.progress import Progress, Silent
from akashllm.sdl import fill, placeholders
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private, write_private

_POLL = 0.25
"""Seconds between two looks at this machine; a market elsewhere is looked at less often."""

POLL_REMOTE = 3.0
FORWARD = 5.0
"""Percent that a model has to come forward for its wait to begin anew."""

ADMIN_FILE = "admin-key"
"""Where a deployment's admin key is kept, beside `api-key`."""

_KEY_BYTES = 24
ENDED = frozenset({"failed", "stopped", "closed"})
"""States of a standing in which nothing runs any more."""


class Elsewhere(Exception):
    """This provider will not do: another one may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Work:
    """One deployment that is being worked on, and what only memory may hold of it."""

    order: Order
    row: Deployment
    key: str = field(repr=False)
    admin: str = field(default="", repr=False)
    report: Verdicts | None = None

    @property
    def dseq(self) -> str:
        """Its number at the market; only after `create`."""
        assert self.row.dseq is not None
        return self.row.dseq

    @property
    def secrets(self) -> dict[str, str]:
        """Every value that a placeholder may ask for."""
        keys = {API_KEY: self.key, ADMIN_KEY: self.admin}
        return {**self.order.secrets, **{name: key for name, key in keys.items() if key}}

    def filled(self) -> str:
        """The SDL with its secrets."""
        return fill(self.order.sdl, self.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One market, one record. `verify` judges the URL at the end; `choose` picks among bids.

    gather   seconds to go on collecting bids after the first one
    """

    market: Market
    store: Store
    verify: Verify
    choose: Choose = cheapest
    progress: Progress = field(default_factory=Silent)
    clock: Clock = field(default_factory=RealClock)
    ask: Callable[[str, str | None], Health] = probe
    gather: float = 0.0

    def until(
        self,
        work: Work,
        met: Callable[[Standing], bool],
        what: str,
        *,
        percent: Callable[[], float] = lambda: 0.0,
    ) -> Standing:
        """Poll until `met`; give up where the market says that it failed, stop waiting at the time-out.

        The time-out begins anew with every `FORWARD` percent: a large model takes as long as it takes to fetch,
        as long as it does come.
        """
        deadline, best = self.clock.monotonic() + work.order.timeout, 0.0
        while True:
            standing = self.standing(work)
            if standing.state in ENDED:
                self.give_up(work, standing.reason or f"it is {standing.state}")
            if met(standing):
                return standing
            if percent() >= best + FORWARD:
                best = percent()
                deadline = self.clock.monotonic() + work.order.timeout
            if self.clock.monotonic() >= deadline:
                if self.left(work):
                    raise Elsewhere(f"{what} after {work.order.timeout:.0f} s")
                raise MarketError(
                    f"{what} after {work.order.timeout:.0f} s",
                    hint=f"deploy again to go on waiting; `akashllm logs {work.row.name}` shows what it does;"
                    f" `akashllm close {work.row.name}` ends it",
                )
            self.clock.sleep(self.pause)

    def standing(self, work: Work) -> Standing:
        """How it stands; a market that is away for a while ends nothing."""
        try:
            return self.market.status(work.dseq)
        except MarketUnavailable as error:
            self.progress.note(error.message)
            return Standing(dseq=work.dseq, state="starting")

    def give_up(self, work: Work, reason: str) -> NoReturn:
        """Try another provider; or, if enough were tried, close what will never be ready, and say so."""
        if self.left(work):
            raise Elsewhere(reason)
        self.withdraw(work, reason)
        kind = ProviderFailed if self.market.charges else MarketError
        raise kind(
            f"{work.row.name} failed: {reason}", hint=f"`akashllm logs {work.row.name}` shows what it wrote"
        )

    def condemn(self, work: Work, reason: str) -> NoReturn:
        """Close what no provider could make ready, and say why: another lease would be paid in vain."""
        self.withdraw(work, reason)
        raise MarketError(
            f"{work.row.name} failed: {reason}",
            hint="the cause is in what was ordered, so no other provider is tried: mend it, then deploy again",
        )

    def withdraw(self, work: Work, reason: str) -> None:
        """Close at the market what nothing will come of: its money is free again."""
        self.store.update(work.row.id, state="failed", reason=reason)
        self.market.close(work.dseq)

    def left(self, work: Work) -> bool:
        """Whether another provider may be tried."""
        return self.market.charges and len(work.row.facts.get("avoid", ())) + 1 < work.order.attempts

    def elsewhere(self, work: Work, reason: str) -> dict[str, Any]:
        """Close the deployment, and begin again at the order, without the provider that has failed."""
        provider = work.row.provider or work.row.facts["bid"]["provider"]
        self.progress.note(f"{provider} failed: {reason}; trying another provider")
        self.market.close(work.dseq)
        avoid = [*work.row.facts.get("avoid", ()), provider]
        facts = {**work.row.facts, "avoid": avoid, "failure": f"{provider}: {reason}"}
        self.manifest_path(work.row).unlink(missing_ok=True)
        return {"step": "create", "dseq": None, "provider": None, "url": None, "facts": facts}

    def key(self, row: Deployment, order: Order) -> str:
        """The deployment's API key: the one it has, the one that was given, or a new one."""
        return self._kept_key(row, "api-key", order.secrets.get(API_KEY) or new_key("ak"))

    def admin(self, row: Deployment, order: Order) -> str:
        """Likewise the key of who manages its models; empty where the SDL has no place for one."""
        if ADMIN_KEY not in placeholders(order.sdl):
            return ""
        return self._kept_key(row, ADMIN_FILE, order.secrets.get(ADMIN_KEY) or new_key("admin"))

    def _kept_key(self, row: Deployment, name: str, otherwise: str) -> str:
        path = self.store.home.directory(row.name, row.id) / name
        if path.exists():
            return read_private(path).strip()
        write_private(path, otherwise + "\n")
        return otherwise

    def manifest_path(self, row: Deployment) -> Path:
        """Where the market's own manifest is kept until the lease has it."""
        return self.store.home.directory(row.name, row.id) / "manifest.json"

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return POLL_REMOTE if self.market.charges else _POLL


def new_key(prefix: str) -> str:
    """A key that nobody can guess."""
    return f"{prefix}-{secrets.token_urlsafe(_KEY_BYTES)}"
