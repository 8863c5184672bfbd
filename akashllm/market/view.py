"""A deployment as it is now: the record's word, the market's, and the service's, in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from akashllm.errors import MarketError
from akashllm.market.base import Held, Market, Replicas, Standing
from akashllm.market.probe import Health, probe
from akashllm.state import Deployment, Home, Store

Seen = Literal[
    "deploying",
    "interrupted",
    "starting",
    "loading",
    "ready",
    "restarting",
    "failed",
    "stopped",
    "closing",
    "closed",
    "unrecorded",
    "unknown",
]
"""`interrupted`: a deploy that nobody works on; `unrecorded`: open at the market, not in the record."""

Ask = Callable[[str, str | None], Health]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What `list` and `status` show. `percent` is how much of the model is loaded."""

    name: str
    state: Seen
    market: str
    dseq: str | None = None
    provider: str | None = None
    model: str = ""
    engine: str = ""
    url: str | None = None
    percent: float | None = None
    restarts: int = 0
    reason: str = ""
    sdl: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    hours: float | None = None
    replicas: tuple[Replicas, ...] = ()

    @property
    def words(self) -> str:
        """The state, with how much of the model is loaded where that is known."""
        return (
            f"loading {self.percent:.0f} %"
            if self.state == "loading" and self.percent is not None
            else self.state
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def views(
    store: Store,
    markets: Sequence[Market],
    *,
    closed: bool = False,
    ask: Ask = probe,
    silent: list[str] | None = None,
) -> Iterator[View]:
    """Every deployment of the record, and every other one that a market holds. `silent`: see `unrecorded`."""
    by_name = {market.name: market for market in markets}
    rows = store.all(closed=closed)
    for row in rows:
        yield view(store, row, by_name.get(row.market), ask=ask)
    for market, held in unrecorded(store, markets, silent=silent):
        yield View(
            name=held.reference or "",
            state="unrecorded",
            market=market.name,
            dseq=held.dseq,
            url=held.url,
            reason=f"the record does not know it; `akashllm close {held.dseq}` ends it",
            created_at=held.created_at,
        )


def unrecorded(
    store: Store, markets: Sequence[Market], *, silent: list[str] | None = None
) -> Iterator[tuple[Market, Held]]:
    """What markets hold for this account that no open row of the record names.

    A row names the deployment of its number and no other. One without a number, whose order was never answered,
    names the first that has its reference: a second one is a second escrow.

    silent   gets a sentence for each market that does not answer; None: that is an error
    """
    rows = store.all()
    numbers = {(row.market, row.dseq) for row in rows if row.dseq}
    awaited = {(row.market, row.reference) for row in rows if row.dseq is None}
    for market in markets:
        try:
            holdings = market.holdings()
        except MarketError as error:
            if silent is None:
                raise
            silent.append(f"the market {market.name} was not asked: {error.message}")
            continue
        for held in holdings:
            if (market.name, held.dseq) in numbers:
                continue
            if held.reference and (market.name, held.reference) in awaited:
                awaited.discard((market.name, held.reference))
                continue
            yield market, held


def view(store: Store, row: Deployment, market: Market | None, *, ask: Ask = probe) -> View:
    """One deployment of the record. `market` None: that market cannot be asked from here."""
    standing, reason = None, row.reason
    if market is not None and row.dseq and row.state != "closed":
        try:
            standing = market.status(row.dseq)
        except MarketError as error:
            reason = error.message
    state: Seen = _recorded(store.home, row)
    health = Health("unknown")
    if row.state == "active":
        state = "unknown"
        if standing is not None:
            url = standing.url or row.url
            running = standing.state in {"running", "starting"}
            health = ask(url, None) if running and url else health
            state = _observed(standing, health)
    if standing is not None:
        reason = (health.reason if state in {"failed", "loading"} else "") or standing.reason or reason
    return View(
        name=row.name,
        state=state,
        market=row.market,
        dseq=row.dseq,
        provider=row.provider,
        model=row.model,
        engine=row.engine,
        url=(standing.url if standing else None) or row.url,
        percent=health.percent,
        restarts=standing.restarts if standing else 0,
        reason="" if state == "ready" else reason,
        sdl=row.sdl_path,
        created_at=row.created_at,
        updated_at=row.updated_at,
        hours=standing.hours if standing else None,
        replicas=standing.replicas if standing else (),
    )


def _recorded(home: Home, row: Deployment) -> Seen:
    """The record's own word; whether somebody is working on a deployment shows in who holds its name."""
    if row.state == "deploying":
        with home.lock(row.name, wait=False) as free:
            return "interrupted" if free else "deploying"
    return "unknown" if row.state == "active" else row.state


def _observed(standing: Standing, health: Health) -> Seen:
    """What an active deployment is doing."""
    match standing.state:
        case "restarting" | "failed" | "stopped" | "closed":
            return standing.state
        case "open":
            return "stopped"
    if health.state in {"ready", "loading", "failed"}:
        return "ready" if health.state == "ready" else "loading" if health.state == "loading" else "failed"
    return "starting"
