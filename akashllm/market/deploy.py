"""From a plan to a verified URL: an explicit machine of small steps, each recorded before and after.

::

    plan -> preflight -> create -> bids -> choose -> lease -> manifest -> ready -> smoke -> done

A process may die, or a reply be lost, at any point. The record then says which step was begun, and each step
can be made again: it first looks for what it may have done already. So no deployment is ever open at a market
without a row in the record, and deploying again goes on where the last attempt ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from akashllm.errors import (
    AkashllmError,
    BidGone,
    CheckFailed,
    MarketError,
    MarketUnavailable,
    NoBids,
    ProviderFailed,
    UsageError,
)
from akashllm.market.base import Bid, Market, Standing
from akashllm.market.clock import Clock, RealClock
from akashllm.market.closing import adopted, end
from akashllm.market.order import (
    API_KEY,
    STEPS,
    Choose,
    Order,
    Outcome,
    Verdicts,
    Verify,
    bid_from_record,
    bid_to_record,
    cheapest,
)
from akashllm.market.probe import Health, probe
from akashllm.market.progress import Progress, Silent
from akashllm.sdl import fill, load, manifest_json
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private, write_private

_POLL = 0.25
"""Seconds between two looks at this machine; a market elsewhere is looked at less often."""

_POLL_REMOTE = 3.0
_KEY_BYTES = 24
_RUNS = frozenset({"starting", "running", "restarting"})
_HARMLESS = frozenset({"plan", "preflight"})
"""Steps that leave nothing at a market: when one fails, there is nothing to go on with."""

_OF_THE_DAY = frozenset({"max_price_hour", "max_uact_block", "price_source", "warnings"})

_ENDED = frozenset({"failed", "stopped", "closed"})


class _Elsewhere(Exception):
    """This provider will not do: another one may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Work:
    order: Order
    row: Deployment
    key: str = field(repr=False)
    report: Verdicts | None = None

    @property
    def dseq(self) -> str:
        assert self.row.dseq is not None
        return self.row.dseq

    def filled(self) -> str:
        return fill(self.order.sdl, {**self.order.secrets, API_KEY: self.key})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployer:
    """Drives one market. `verify` judges the URL at the end; `choose` picks among bids.

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

    def deploy(self, order: Order) -> Outcome:
        """Deploy, or go on with what an earlier attempt began, or find that it already runs.

        Raises `UsageError` if the name runs something else, `MarketError` where the market or the service
        fails, `CheckFailed` where the smoke test finds a broken promise (the service stays up).
        """
        name = order.plan.name
        # A secret that is missing is said before anything is begun.
        fill(order.sdl, {API_KEY: "", **order.secrets})

        def waiting() -> None:
            self.progress.note(f"another command is deploying {name}: waiting for it")

        with self.store.home.lock(name, waiting=waiting):
            row = self._settle(order)
            if isinstance(row, Outcome):
                return row
            work = _Work(order, row, self._key(row, order))
            while work.row.step != "done":
                self._step(work)
            return Outcome(deployment=work.row, key=work.key, report=work.report)

    # --- where to begin ------------------------------------------------------------------------------------

    def _settle(self, order: Order) -> Deployment | Outcome:
        """The row to go on with: a new one, or one that an earlier attempt left."""
        plan = json.loads(json.dumps(order.plan.as_dict()))
        row = self.store.named(order.plan.name)
        if row is None:
            return self._begin(order, plan)
        if row.market != self.market.name:
            raise UsageError(
                f"{row.name} is deployed on the market {row.market}",
                hint=f"`akashllm close {row.name}` first, or give this one another --name",
            )
        row = adopted(self.store, self.market, row)
        standing = self.market.status(row.dseq) if row.dseq else None
        runs = standing is not None and standing.state in _RUNS
        same = _lasting(row.plan) == _lasting(plan)
        if runs and row.state == "active" and not same:
            raise UsageError(
                f"{row.name} is running with other settings",
                hint=f"`akashllm close {row.name}` first, or give this one another --name",
            )
        # A lease of a market elsewhere that ended is never taken up again: that takes a new order.
        over = standing is not None and (
            standing.state == "closed" or (standing.state == "failed" and self.market.charges)
        )
        if not same or row.state in {"failed", "closing"} or over:
            self.progress.note(f"clearing away what is left of {row.name} ({row.state}, step {row.step})")
            end(self.store, self.market, row, "it was replaced")
            return self._begin(order, plan)
        if runs and row.state == "active" and row.step == "done":
            return Outcome(deployment=row, key=self._key(row, order), already=True)
        if standing and standing.state in _ENDED:
            self.progress.note(f"{row.name} has stopped: starting it again")
            detail = {"why": standing.reason}
            return self.store.record(row.id, "lease", "note", detail, state="deploying", step="lease")
        self.progress.note(f"going on with {row.name} at the step {row.step}")
        return row

    def _begin(self, order: Order, plan: Mapping[str, Any]) -> Deployment:
        return self.store.add(order.plan.name, self.market.name, plan, STEPS[0])

    # --- the machine ---------------------------------------------------------------------------------------

    def _step(self, work: _Work) -> None:
        step = work.row.step
        handlers: dict[str, Callable[[_Work], dict[str, Any]]] = {
            "plan": self._plan,
            "preflight": self._preflight,
            "create": self._create,
            "bids": self._bids,
            "choose": self._choose,
            "lease": self._lease,
            "manifest": self._manifest,
            "ready": self._ready,
            "smoke": self._smoke,
        }
        self.store.record(work.row.id, step, "before")
        try:
            try:
                changes = handlers[step](work)
            except _Elsewhere as failure:
                changes = self._elsewhere(work, failure.reason)
        except BaseException as error:
            detail = {"error": type(error).__name__, "message": str(error)}
            changes = {"reason": str(error) or type(error).__name__}
            if step in _HARMLESS and isinstance(error, AkashllmError):
                changes["state"] = "failed"
            work.row = self.store.record(work.row.id, step, "failed", detail, **changes)
            raise
        following = STEPS[STEPS.index(step) + 1]
        work.row = self.store.record(work.row.id, step, "after", **{"step": following, "reason": "", **changes})

    def _plan(self, work: _Work) -> dict[str, Any]:
        path = self.store.home.directory(work.row.name, work.row.id) / "deploy.yaml"
        write_private(path, work.order.sdl)
        self.progress.step("plan", f"SDL written to {path}")
        return {"sdl_path": str(path)}

    def _preflight(self, work: _Work) -> dict[str, Any]:
        self.progress.step("preflight", "asking who could serve this")
        balance = self.market.balance()
        if self.market.charges and balance.available is not None and balance.available <= 0:
            raise MarketError("there is no money to deploy with", hint="add funds, then deploy again")
        screening = self.market.screen(work.filled())
        if screening.known and not screening.offers:
            removed = ", ".join(f"{what} rules out {count}" for what, count in screening.removed)
            raise NoBids(
                f"no provider could serve this{f': {removed}' if removed else ''}", hint="relax the plan"
            )
        return {}

    def _create(self, work: _Work) -> dict[str, Any]:
        self.progress.step("create", f"ordering on the market {self.market.name}")
        if work.row.dseq is None:
            created = self.market.create(work.filled(), reference=work.row.reference)
            if created.manifest is not None:
                write_private(self._manifest_path(work.row), created.manifest)
            return {"dseq": created.dseq}
        return {}

    def _bids(self, work: _Work) -> dict[str, Any]:
        self.progress.step("bids", "waiting for bids")
        deadline = self.clock.monotonic() + work.order.timeout
        first = first_failed = None
        while True:
            found = self._found(work)
            avoid = work.row.facts.get("avoid", ())
            bids = [bid for bid in found if bid.provider not in avoid]
            now = self.clock.monotonic()
            first_failed = now if found and first_failed is None else first_failed
            first = now if bids and first is None else first
            if bids and first is not None and now - first >= self.gather:
                return {"facts": {**work.row.facts, "bids": [bid_to_record(bid) for bid in bids]}}
            if not bids and first_failed is not None and now - first_failed >= max(self.gather, _POLL_REMOTE):
                self._withdraw(work, "nobody has bid but providers that have failed")
                raise NoBids(
                    "nobody has bid but providers that have failed already",
                    hint=f"deploy again later, or raise --max-price; {work.order.attempts} are tried at a time",
                )
            if not bids and now >= deadline:
                self._withdraw(work, "nobody has bid")
                raise NoBids(
                    f"nobody has bid within {work.order.timeout:.0f} s",
                    hint="raise --max-price, name more GPUs, or leave out --region; then deploy again",
                )
            self.clock.sleep(self._pause)

    def _found(self, work: _Work) -> Sequence[Bid]:
        """The bids there are; none while the market is away."""
        try:
            return self.market.bids(work.dseq)
        except MarketUnavailable as error:
            self.progress.note(error.message)
            return []

    def _choose(self, work: _Work) -> dict[str, Any]:
        try:
            chosen = self.choose([bid_from_record(data) for data in work.row.facts["bids"]])
        except NoBids as error:
            self._withdraw(work, error.message)
            raise
        price = f"{chosen.amount} {chosen.denom} a block" if chosen.amount else "free"
        self.progress.step("choose", f"provider {chosen.provider}, {price}")
        return {"facts": {**work.row.facts, "bid": bid_to_record(chosen)}, "provider": chosen.provider}

    def _lease(self, work: _Work) -> dict[str, Any]:
        bid = bid_from_record(work.row.facts["bid"])
        self.progress.step("lease", f"starting on {bid.provider}")
        path = self._manifest_path(work.row)
        manifest = read_private(path) if path.exists() else manifest_json(load(work.filled())).decode()
        try:
            lease = self.market.lease(work.dseq, bid, manifest)
        except BidGone as error:
            rest = [data for data in work.row.facts["bids"] if data["provider"] != bid.provider]
            if not rest:
                self._give_up(work, error.message)
            self.progress.note(f"{error.message}; taking the next one")
            return {"step": "choose", "facts": {**work.row.facts, "bids": rest}, "provider": None}
        except ProviderFailed as error:
            self._give_up(work, error.message)
        return {"provider": lease.provider}

    def _manifest(self, work: _Work) -> dict[str, Any]:
        standing = self._until(
            work, lambda now: now.url is not None, "the provider has not started the service"
        )
        self.progress.step("manifest", f"address {standing.url}")
        return {"url": standing.url}

    def _ready(self, work: _Work) -> dict[str, Any]:
        self.progress.step("ready", "waiting for the model")
        assert work.row.url is not None
        url, restarts = work.row.url, 0

        def ready(standing: Standing) -> bool:
            nonlocal restarts
            if standing.restarts > restarts:
                restarts = standing.restarts
                self.progress.note(f"the service was started again ({standing.reason})")
            health = self.ask(url, work.key)
            if health.state == "failed":
                self._give_up(work, health.reason or "the service says that it failed")
            words = "the port is not open yet" if health.state == "unreachable" else health.state
            self.progress.loading(100.0 if health.state == "ready" else health.percent, words)
            return health.state == "ready"

        self._until(work, ready, "the model is not ready")
        return {}

    def _smoke(self, work: _Work) -> dict[str, Any]:
        self.progress.step("smoke", "checking every promise")
        assert work.row.url is not None
        report = self.verify(work.row.url, api_key=work.key, model=work.row.model, progress=self.progress)
        work.report = report
        facts = {**work.row.facts, "smoke": report.as_dict()}
        if not report.ok and self.market.charges and _unreachable(report):
            self._give_up(work, f"nobody answers at {work.row.url}")
        if not report.ok:
            # It answers, so it is handed over; what is wrong is said, and stays on record.
            self.store.update(work.row.id, state="active", facts=facts)
            raise CheckFailed(
                f"{work.row.name} runs at {work.row.url}, but the smoke test found a broken promise",
                hint=f"`akashllm logs {work.row.name}` may say why; `akashllm close {work.row.name}` ends it",
            )
        return {"state": "active", "facts": facts}

    # --- what the steps share ------------------------------------------------------------------------------

    def _until(self, work: _Work, met: Callable[[Standing], bool], what: str) -> Standing:
        """Poll until `met`; give up where the market says that it failed, stop waiting at the time-out."""
        deadline = self.clock.monotonic() + work.order.timeout
        while True:
            standing = self._standing(work)
            if standing.state in _ENDED:
                self._give_up(work, standing.reason or f"it is {standing.state}")
            if met(standing):
                return standing
            if self.clock.monotonic() >= deadline:
                if self._left(work):
                    raise _Elsewhere(f"{what} after {work.order.timeout:.0f} s")
                raise MarketError(
                    f"{what} after {work.order.timeout:.0f} s",
                    hint=f"deploy again to go on waiting; `akashllm logs {work.row.name}` shows what it does;"
                    f" `akashllm close {work.row.name}` ends it",
                )
            self.clock.sleep(self._pause)

    def _standing(self, work: _Work) -> Standing:
        """How it stands; a market that is away for a while ends nothing."""
        try:
            return self.market.status(work.dseq)
        except MarketUnavailable as error:
            self.progress.note(error.message)
            return Standing(dseq=work.dseq, state="starting")

    def _give_up(self, work: _Work, reason: str) -> NoReturn:
        """Try another provider; or, if enough were tried, close what will never be ready, and say so."""
        if self._left(work):
            raise _Elsewhere(reason)
        self._withdraw(work, reason)
        kind = ProviderFailed if self.market.charges else MarketError
        raise kind(
            f"{work.row.name} failed: {reason}", hint=f"`akashllm logs {work.row.name}` shows what it wrote"
        )

    def _withdraw(self, work: _Work, reason: str) -> None:
        """Close at the market what nothing will come of: its money is free again."""
        self.store.update(work.row.id, state="failed", reason=reason)
        self.market.close(work.dseq)

    def _left(self, work: _Work) -> bool:
        """Whether another provider may be tried."""
        return self.market.charges and len(work.row.facts.get("avoid", ())) + 1 < work.order.attempts

    def _elsewhere(self, work: _Work, reason: str) -> dict[str, Any]:
        """Close the deployment, and begin again at the order, without the provider that has failed."""
        provider = work.row.provider or work.row.facts["bid"]["provider"]
        self.progress.note(f"{provider} failed: {reason}; trying another provider")
        self.market.close(work.dseq)
        facts = {**work.row.facts, "avoid": [*work.row.facts.get("avoid", ()), provider]}
        self._manifest_path(work.row).unlink(missing_ok=True)
        return {"step": "create", "dseq": None, "provider": None, "url": None, "facts": facts}

    def _key(self, row: Deployment, order: Order) -> str:
        """The deployment's API key: the one it has, the one that was given, or a new one."""
        path = self.store.home.directory(row.name, row.id) / "api-key"
        if path.exists():
            return read_private(path).strip()
        key = order.secrets.get(API_KEY) or f"ak-{secrets.token_urlsafe(_KEY_BYTES)}"
        write_private(path, key + "\n")
        return key

    def _manifest_path(self, row: Deployment) -> Path:
        return self.store.home.directory(row.name, row.id) / "manifest.json"

    @property
    def _pause(self) -> float:
        return _POLL_REMOTE if self.market.charges else _POLL


def _lasting(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without what the market's prices of the day have put into it."""
    return {key: value for key, value in plan.items() if key not in _OF_THE_DAY}


def _unreachable(report: Verdicts) -> bool:
    """Whether the smoke test found nobody at the URL, which is the provider's fault."""
    return any(
        one.get("name") == "reachable" and one.get("verdict") == "broken"
        for one in report.as_dict().get("results", ())
    )
