"""From a plan to a verified URL: an explicit machine of small steps, each recorded before and after.

::

    plan -> preflight -> create -> bids -> choose -> lease -> manifest -> ready -> smoke -> done

A process may die, or a reply be lost, at any point. The record then says which step was begun, and each step
can be made again: it first looks for what it may have done already. So no deployment is ever open at a market
without a row in the record, and deploying again goes on where the last attempt ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from akashllm.errors import AkashllmError
from akashllm.market import ordering, readying
from akashllm.market.begin import row_for
from akashllm.market.driver import Driver, Elsewhere, Work
from akashllm.market.order import ADMIN_KEY, API_KEY, STEPS, Order, Outcome
from akashllm.market.watching import IDLE
from akashllm.sdl import fill
from akashllm.state import Deployment

_HARMLESS = frozenset({"plan", "preflight"})
"""Steps that leave nothing at a market: when one fails, there is nothing to go on with."""

HANDLERS: Mapping[str, Callable[[Driver, Work], dict[str, Any]]] = {
    "plan": ordering.write_plan,
    "preflight": ordering.preflight,
    "create": ordering.create,
    "bids": ordering.bids,
    "choose": ordering.choose,
    "lease": ordering.lease,
    "manifest": readying.await_address,
    "ready": readying.await_model,
    "smoke": readying.judge,
}
"""What each step does; it returns what changes in the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployer(Driver):
    """Drives one market from a plan to a verified URL."""

    def deploy(self, order: Order) -> Outcome:
        """Deploy, or go on with what an earlier attempt began, or find that it already runs.

        Raises `UsageError` if the name runs something else, `MarketError` where the market or the service
        fails, `CheckFailed` where the smoke test finds a broken promise (the service stays up).
        """
        name = order.plan.name
        # A secret that is missing is said before anything is begun.
        fill(order.sdl, {API_KEY: "", ADMIN_KEY: "", **order.secrets})

        def waiting() -> None:
            self.progress.note(f"another command is deploying {name}: waiting for it")

        with self.store.home.lock(name, waiting=waiting):
            row = row_for(self, order)
            if isinstance(row, Outcome):
                kept = self._kept(row.deployment, order)
                return replace(row, deployment=kept, admin=self.admin(kept, order))
            row = self._kept(row, order)
            work = Work(order, row, self.key(row, order), self.admin(row, order))
            while work.row.step != "done":
                self._step(work)
            return Outcome(deployment=work.row, key=work.key, admin=work.admin, report=work.report)

    def _kept(self, row: Deployment, order: Order) -> Deployment:
        """The row with what was asked for its later life."""
        if order.idle is None:
            return row
        return self.store.update(row.id, facts={**row.facts, IDLE: order.idle})

    def _step(self, work: Work) -> None:
        step = work.row.step
        self.store.record(work.row.id, step, "before")
        try:
            try:
                changes = HANDLERS[step](self, work)
            except Elsewhere as failure:
                changes = self.elsewhere(work, failure.reason)
        except BaseException as error:
            detail = {"error": type(error).__name__, "message": str(error)}
            changes = {"reason": str(error) or type(error).__name__}
            if step in _HARMLESS and isinstance(error, AkashllmError):
                changes["state"] = "failed"
            work.row = self.store.record(work.row.id, step, "failed", detail, **changes)
            raise
        following = STEPS[STEPS.index(step) + 1]
        work.row = self.store.record(work.row.id, step, "after", **{"step": following, "reason": "", **changes})
