"""Where a deployment begins: anew, or where an earlier attempt has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from akashllm.errors import UsageError
from akashllm.market.choose import dollars_hour
from akashllm.market.closing import adopted, end, unordered
from akashllm.market.driver import ENDED, Driver
from akashllm.market.order import STEPS, Order, Outcome, bid_from_record
from akashllm.state import Deployment

_RUNS = frozenset({"starting", "running", "restarting"})
_OF_THE_DAY = frozenset({"max_price_hour", "max_uact_block", "price_source", "warnings"})


def row_for(driver: Driver, order: Order) -> Deployment | Outcome:
    """The row to go on with: a new one, or one that an earlier attempt left."""
    plan = json.loads(json.dumps(order.plan.as_dict()))
    row = driver.store.named(order.plan.name)
    if row is None:
        return _new(driver, order, plan)
    if row.market != driver.market.name:
        if unordered(row):
            driver.progress.note(f"{row.name} never came to an order on the market {row.market}: forgotten")
            end(driver.store, None, row, "it was replaced")
            return _new(driver, order, plan)
        raise UsageError(
            f"{row.name} is deployed on the market {row.market}",
            hint=f"`akashllm close {row.name}` first, or give this one another --name",
        )
    row = adopted(driver.store, driver.market, row)
    standing = driver.market.status(row.dseq) if row.dseq else None
    runs = standing is not None and standing.state in _RUNS
    same = _lasting(row.plan) == _lasting(plan)
    if runs and row.state == "active" and not same:
        raise UsageError(
            f"{row.name} is running with other settings",
            hint=f"`akashllm close {row.name}` first, or give this one another --name",
        )
    # A lease of a market elsewhere that ended is never taken up again: that takes a new order.
    over = standing is not None and (
        standing.state == "closed" or (standing.state == "failed" and driver.market.charges)
    )
    dear = row.state == "deploying" and _dearer(row, order)
    if dear:
        driver.progress.note(
            f"the bid that {row.name} was about to run on is dearer than what is asked for now"
        )
    if not same or row.state in {"failed", "closing"} or over or dear:
        driver.progress.note(f"clearing away what is left of {row.name} ({row.state}, step {row.step})")
        end(driver.store, driver.market, row, "it was replaced")
        return _new(driver, order, plan)
    if runs and row.state == "active" and row.step == "done":
        return Outcome(deployment=row, key=driver.key(row, order), already=True)
    if standing and standing.state in ENDED:
        driver.progress.note(f"{row.name} has stopped: starting it again")
        detail = {"why": standing.reason}
        return driver.store.record(row.id, "lease", "note", detail, state="deploying", step="lease")
    driver.progress.note(f"going on with {row.name} at the step {row.step}")
    return row


def _new(driver: Driver, order: Order, plan: Mapping[str, Any]) -> Deployment:
    return driver.store.add(order.plan.name, driver.market.name, plan, STEPS[0])


def _dearer(row: Deployment, order: Order) -> bool:
    """Whether the bid that an earlier attempt took costs more than this one may."""
    bid, cap = row.facts.get("bid"), order.plan.max_price_hour
    if bid is None or cap is None:
        return False
    price = dollars_hour(bid_from_record(bid))
    return price is not None and price > Decimal(str(cap))


def _lasting(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without what the market's prices of the day have put into it."""
    return {key: value for key, value in plan.items() if key not in _OF_THE_DAY}
