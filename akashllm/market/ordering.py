"""From a plan to a lease: the steps that ask a market, order, and take a bid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from akashllm.errors import BidGone, MarketUnavailable, NoBids, NotEnoughMoney, ProviderFailed
from akashllm.market.base import Bid, SealsSecrets
from akashllm.market.driver import POLL_REMOTE, Driver, Work
from akashllm.market.order import bid_from_record, bid_to_record
from akashllm.sdl import load, manifest_json
from akashllm.state.private import read_private, write_private


def write_plan(driver: Driver, work: Work) -> dict[str, Any]:
    """The SDL goes to a file, secrets as placeholders."""
    path = driver.store.home.directory(work.row.name, work.row.id) / "deploy.yaml"
    write_private(path, work.order.sdl)
    driver.progress.step("plan", f"SDL written to {path}")
    return {"sdl_path": str(path)}


def preflight(driver: Driver, work: Work) -> dict[str, Any]:
    """What would make an order pointless is found before it costs anything."""
    driver.progress.step("preflight", "asking who could serve this")
    balance = driver.market.balance()
    if driver.market.charges and balance.available is not None and balance.available <= 0:
        raise NotEnoughMoney(
            "there is no money to deploy with", hint=balance.hint or "add funds, then deploy again"
        )
    screening = driver.market.screen(work.filled())
    if screening.known and not screening.offers:
        removed = ", ".join(f"{what} rules out {count}" for what, count in screening.removed)
        raise NoBids(
            f"no provider could serve this{f': {removed}' if removed else ''}",
            hint="leave out what rules them out, such as --region or --gpu; --any-provider takes the unaudited",
        )
    return {}


def create(driver: Driver, work: Work) -> dict[str, Any]:
    """Order, unless an earlier attempt has."""
    driver.progress.step("create", f"ordering on the market {driver.market.name}")
    if work.row.dseq is None:
        market, reference = driver.market, work.row.reference
        if isinstance(market, SealsSecrets):
            created = market.create_sealed(work.order.sdl, work.secrets, reference=reference)
        else:
            created = market.create(work.filled(), reference=reference)
        if created.note:
            driver.progress.note(created.note)
        if created.manifest is not None:
            write_private(driver.manifest_path(work.row), created.manifest)
        return {"dseq": created.dseq}
    return {}


def bids(driver: Driver, work: Work) -> dict[str, Any]:
    """Collect bids until there are enough, or the time is up."""
    driver.progress.step("bids", "waiting for bids")
    deadline = driver.clock.monotonic() + work.order.timeout
    first = first_failed = None
    while True:
        found = _found(driver, work)
        avoid = work.row.facts.get("avoid", ())
        bids = [bid for bid in found if bid.provider not in avoid]
        now = driver.clock.monotonic()
        first_failed = now if found and first_failed is None else first_failed
        first = now if bids and first is None else first
        if bids and first is not None and now - first >= driver.gather:
            return {"facts": {**work.row.facts, "bids": [bid_to_record(bid) for bid in bids]}}
        if not bids and first_failed is not None and now - first_failed >= max(driver.gather, POLL_REMOTE):
            driver.withdraw(work, "nobody has bid but providers that have failed")
            raise NoBids(
                f"nobody has bid but providers that have failed already ({work.row.facts.get('failure', '')})",
                hint=f"deploy again later, or raise --max-price; {work.order.attempts} are tried at a time",
            )
        if not bids and now >= deadline:
            driver.withdraw(work, "nobody has bid")
            raise NoBids(
                f"nobody has bid within {work.order.timeout:.0f} s",
                hint="raise --max-price, name more GPUs, or leave out --region; then deploy again",
            )
        driver.clock.sleep(driver.pause)


def _found(driver: Driver, work: Work) -> Sequence[Bid]:
    """The bids there are; none while the market is away."""
    try:
        return driver.market.bids(work.dseq)
    except MarketUnavailable as error:
        driver.progress.note(error.message)
        return []


def choose(driver: Driver, work: Work) -> dict[str, Any]:
    """Take one of the bids."""
    try:
        chosen = driver.choose([bid_from_record(data) for data in work.row.facts["bids"]])
    except NoBids as error:
        driver.withdraw(work, error.message)
        raise
    price = f"{chosen.amount} {chosen.denom} a block" if chosen.amount else "free"
    driver.progress.step("choose", f"provider {chosen.provider}, {price}")
    return {"facts": {**work.row.facts, "bid": bid_to_record(chosen)}, "provider": chosen.provider}


def lease(driver: Driver, work: Work) -> dict[str, Any]:
    """Lease from the provider, and hand the manifest over."""
    bid = bid_from_record(work.row.facts["bid"])
    driver.progress.step("lease", f"starting on {bid.provider}")
    path = driver.manifest_path(work.row)
    manifest = read_private(path) if path.exists() else manifest_json(load(work.filled())).decode()
    try:
        lease = driver.market.lease(work.dseq, bid, manifest)
    except BidGone as error:
        rest = [data for data in work.row.facts["bids"] if data["provider"] != bid.provider]
        if not rest:
            driver.give_up(work, error.message)
        driver.progress.note(f"{error.message}; taking the next one")
        return {"step": "choose", "facts": {**work.row.facts, "bids": rest}, "provider": None}
    except ProviderFailed as error:
        driver.give_up(work, error.message)
    return {"provider": lease.provider}
