"""Which bid to take: pure, and able to say why.

A bid that breaks a demand is refused: too dear, in another denomination, from a provider that has failed
already, with a GPU that was not asked for. Among the others `best` takes the lowest price after each thing that
speaks against a provider has made it dearer by a fixed factor, so that a much cheaper bid still wins over a
slightly better name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from akashllm.errors import NoBids
from akashllm.market.base import Bid
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH

HOURS_A_MONTH = Decimal("730.5")

DOLLARS = "uact"

UNAUDITED = Decimal("1.5")
PER_INCIDENT = Decimal("0.1")
MOST_INCIDENTS = 10
STEADY = 0.99
PER_HUNDREDTH_DOWN = Decimal("0.05")
ELSEWHERE = Decimal("1.25")

HEAD = ("", "PROVIDER", "$/HOUR", "$/MONTH", "GPU", "REGION", "AUDITED", "UPTIME 7D", "INCIDENTS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of a bid.

    how     best, cheapest, or the address of a provider
    cap     the most that all replicas may cost together, in `denom` a block; None: whatever the SDL admits
    gpus    market names of the GPUs that will do; empty: any
    avoid   providers that are not to be asked again
    """

    how: str = "best"
    cap: Decimal | None = None
    denom: str | None = DOLLARS
    region: str | None = None
    gpus: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A bid with its verdict.

    refused   why it will not do; empty where it will
    against   what speaks against its provider
    weighed   the price after that, in the bid's own denomination
    """

    bid: Bid
    weighed: Decimal
    refused: str = ""
    against: tuple[str, ...] = ()


def rank(bids: Sequence[Bid], wish: Wish) -> tuple[Ranked, ...]:
    """Every bid, the one to take first, the refused ones last."""
    judged = [_judge(bid, wish) for bid in bids]
    if wish.denom is None and len({one.bid.denom for one in judged if not one.refused}) > 1:
        judged = [
            Ranked(bid=one.bid, weighed=one.weighed, refused=one.refused or _other_denomination(one.bid))
            for one in judged
        ]
    return tuple(sorted(judged, key=lambda one: _order(one, wish)))


def pick(ranked: Sequence[Ranked], wish: Wish) -> Bid:
    """The first bid that will do. Raises `NoBids` with what is wrong with each kind of the others."""
    good = [one.bid for one in ranked if not one.refused]
    if good:
        return good[0]
    if not ranked:
        raise NoBids("nobody has bid", hint="relax the plan, or raise --max-price")
    reasons: dict[str, int] = {}
    for one in ranked:
        reasons[_kind(one.refused)] = reasons.get(_kind(one.refused), 0) + 1
    counted = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    raise NoBids(
        f"none of {len(ranked)} bids will do: {counted}",
        hint=_way_out(ranked, wish),
    )


def choose(bids: Sequence[Bid], wish: Wish) -> Bid:
    """`rank`, then `pick`."""
    return pick(rank(bids, wish), wish)


def dollars_hour(bid: Bid) -> Decimal | None:
    """US dollars an hour for the whole order; None where the denomination is no dollar's."""
    return bid.amount * BLOCKS_AN_HOUR / MILLIONTH if bid.denom == DOLLARS else None


def blocks_cap(usd_hour: float) -> Decimal:
    """US dollars an hour as uact a block."""
    return Decimal(str(usd_hour)) * MILLIONTH / BLOCKS_AN_HOUR


def rows(ranked: Sequence[Ranked], *, why: bool = False) -> list[tuple[str, ...]]:
    """The table, head first; with `why` a last column that says how each bid came to its place."""
    table: list[tuple[str, ...]] = [(*HEAD, "WHY") if why else HEAD]
    for number, one in enumerate(ranked, 1):
        bid, hour = one.bid, dollars_hour(one.bid)
        row = (
            "-" if one.refused else str(number),
            bid.provider,
            f"{bid.amount} {bid.denom}/block" if hour is None else f"{hour:.3f}",
            "-" if hour is None else f"{hour * HOURS_A_MONTH:.2f}",
            bid.gpu or "-",
            bid.region or "-",
            "yes" if bid.audited else "no",
            "-" if bid.uptime is None else f"{bid.uptime * 100:.1f} %",
            str(bid.incidents),
        )
        table.append((*row, explain(one)) if why else row)
    return table


def explain(one: Ranked) -> str:
    """How a bid came to its place, in half a sentence."""
    if one.refused:
        return f"refused: it {one.refused}"
    if not one.against:
        return "nothing speaks against it"
    hour = dollars_hour(one.bid)
    weighed = one.weighed * BLOCKS_AN_HOUR / MILLIONTH
    price = "" if hour is None else f"weighed as ${weighed:.3f} instead of ${hour:.3f}: "
    return price + ", ".join(one.against)


def _judge(bid: Bid, wish: Wish) -> Ranked:
    against: list[str] = []
    factor = Decimal(1)
    if not bid.audited:
        against.append("nobody has audited it")
        factor *= UNAUDITED
    if bid.incidents:
        against.append(f"{bid.incidents} incidents in a week")
        factor *= 1 + PER_INCIDENT * min(bid.incidents, MOST_INCIDENTS)
    if bid.uptime is not None and bid.uptime < STEADY:
        against.append(f"seen {bid.uptime * 100:.1f} % of the week")
        factor *= 1 + PER_HUNDREDTH_DOWN * Decimal(str(round((STEADY - max(bid.uptime, 0.0)) * 100, 2)))
    if wish.region and bid.region and bid.region != wish.region:
        against.append(f"in {bid.region}, not {wish.region}")
        factor *= ELSEWHERE
    return Ranked(bid=bid, weighed=bid.amount * factor, refused=_refusal(bid, wish), against=tuple(against))


def _refusal(bid: Bid, wish: Wish) -> str:
    named = wish.how not in {"best", "cheapest"}
    if not bid.amount.is_finite() or bid.amount < 0:
        return "has no price that means anything"
    if wish.denom is not None and bid.denom != wish.denom:
        return _other_denomination(bid)
    if wish.cap is not None and bid.amount > wish.cap:
        return "costs more than the cap"
    if bid.provider in wish.avoid:
        return "is of a provider that has failed already"
    if named and bid.provider != wish.how:
        return "is of another provider than the one named"
    if wish.gpus and bid.gpu and bid.gpu not in wish.gpus:
        return f"has another GPU ({bid.gpu})"
    return ""


def _other_denomination(bid: Bid) -> str:
    return f"is in {bid.denom}, and amounts of different denominations do not compare"


def _order(one: Ranked, wish: Wish) -> tuple[bool, Decimal, bool, int, str]:
    price = one.bid.amount if wish.how == "cheapest" else one.weighed
    comparable = price if price.is_finite() else Decimal(0)
    # Refused bids may be in any denomination: they are not put in order of price.
    return (
        bool(one.refused),
        Decimal(0) if one.refused else comparable,
        not one.bid.audited,
        one.bid.incidents,
        one.bid.provider,
    )


def _kind(refusal: str) -> str:
    return refusal.split(" (", maxsplit=1)[0]


def _way_out(ranked: Sequence[Ranked], wish: Wish) -> str:
    dear = [one.bid for one in ranked if one.refused == "costs more than the cap"]
    prices = [price for bid in dear if (price := dollars_hour(bid)) is not None]
    if prices:
        return f"the lowest is ${min(prices):.3f} an hour: raise --max-price, or ask for a smaller model"
    if wish.how not in {"best", "cheapest"}:
        return "leave out --bid to take the best of the others"
    return "deploy again later, or relax the plan"
