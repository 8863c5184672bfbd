"""Ranking bids: what is refused, what is preferred, and that it can be explained."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.errors import NoBids
from akashllm.market.base import Bid
from akashllm.market.choose import Wish, blocks_cap, choose, dollars_hour, explain, pick, rank, rows

GOOD = Bid(
    provider="akash1good", amount=Decimal(1000), denom="uact", audited=True, region="us-west", uptime=1.0
)


def bid(provider: str, amount: str | int = 1000, **changes: object) -> Bid:
    """A good bid, changed."""
    return replace(GOOD, provider=provider, amount=Decimal(amount), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (bid("akash1a", audited=False), "audited"),
        (bid("akash1a", incidents=1), "1 incidents"),
        (bid("akash1a", uptime=0.9), "90.0 %"),
        (bid("akash1a", region="eu-east"), "eu-east"),
        (bid("akash1a", 1001), ""),
    ],
)
def test_at_the_same_price_the_better_provider_wins(worse: Bid, reason: str) -> None:
    """Audit, incidents, uptime, region and price each decide where everything else is equal."""
    ranked = rank([worse, GOOD], Wish(region="us-west"))

    assert [one.bid.provider for one in ranked] == ["akash1good", "akash1a"]
    assert reason in explain(ranked[1])


def test_a_much_cheaper_bid_wins_over_a_better_name() -> None:
    """What speaks against a provider makes it dearer, not impossible."""
    cheap = bid("akash1cheap", 300, audited=False, incidents=2)

    assert choose([GOOD, cheap], Wish()).provider == "akash1cheap"


def test_cheapest_looks_at_the_price_alone() -> None:
    """`cheapest` takes the lowest price whoever bids it; `best` weighs."""
    cheap = bid("akash1cheap", 999, audited=False, incidents=9)

    assert choose([GOOD, cheap], Wish(how="cheapest")) == cheap
    assert choose([GOOD, cheap], Wish(how="best")) == GOOD


@pytest.mark.parametrize(
    ("offered", "wish", "message", "hint"),
    [
        (bid("akash1a", 2000), Wish(cap=Decimal(1999)), "1 costs more than the cap", "$1.200 an hour"),
        (bid("akash1a", denom="uakt"), Wish(), "is in uakt", "later"),
        (bid("akash1a"), Wish(avoid=frozenset({"akash1a"})), "failed already", "later"),
        (bid("akash1a"), Wish(how="akash1b"), "another provider", "--bid"),
        (bid("akash1a", gpu="t4"), Wish(gpus=("h100",)), "another GPU", "later"),
        (bid("akash1a", "NaN"), Wish(), "no price", "later"),
        (bid("akash1a", -1), Wish(), "no price", "later"),
    ],
)
def test_a_bid_that_breaks_a_demand_is_refused_with_the_reason(
    offered: Bid, wish: Wish, message: str, hint: str
) -> None:
    """Each demand refuses by itself, and the error says which and what to do."""
    with pytest.raises(NoBids, match=message.replace("$", r"\$")) as caught:
        choose([offered], wish)

    assert hint in caught.value.hint
    assert rank([offered, GOOD], replace(wish, how="best"))[0].bid in (GOOD, offered)


def test_no_bids_at_all_is_said_as_such() -> None:
    """An empty list is not a list of bad bids."""
    with pytest.raises(NoBids, match="nobody has bid"):
        pick((), Wish())


def test_a_bid_that_names_no_gpu_is_not_refused_for_it() -> None:
    """Providers may bid without saying which of the GPUs asked for they have."""
    assert choose([bid("akash1a")], Wish(gpus=("h100",))).provider == "akash1a"


def test_amounts_of_two_denominations_are_never_compared() -> None:
    """With no denomination demanded, bids in two are all refused instead of put in order."""
    both = [bid("akash1a", 1, denom="uakt"), bid("akash1b", 1000)]

    with pytest.raises(NoBids, match="do not compare"):
        choose(both, Wish(denom=None))
    assert choose(both, Wish()).provider == "akash1b"


def test_the_table_has_the_price_by_hour_and_by_month() -> None:
    """1000 uact a block is 0.6 dollars an hour; another denomination shows no dollars."""
    table = rows(rank([GOOD, bid("akash1x", 5, denom="uakt")], Wish()), why=True)

    assert table[1][:4] == ("1", "akash1good", "0.600", "438.30")
    assert table[2][:4] == ("-", "akash1x", "5 uakt/block", "-")
    assert table[1][-1] == "nothing speaks against it"
    assert {len(row) for row in table} == {10}
    assert {len(row) for row in rows(rank([GOOD], Wish()))} == {9}


def test_a_cap_in_dollars_is_one_in_blocks() -> None:
    """The cap of a price is that price."""
    assert blocks_cap(0.6) == 1000
    assert dollars_hour(replace(GOOD, amount=blocks_cap(1.1))) == Decimal("1.1")


BIDS = st.lists(
    st.builds(
        Bid,
        provider=st.sampled_from(["akash1a", "akash1b", "akash1c", "akash1d"]),
        amount=st.decimals(-10, 10**18) | st.just(Decimal("NaN")) | st.just(Decimal("Infinity")),
        denom=st.sampled_from(["uact", "uakt"]),
        audited=st.booleans(),
        gpu=st.sampled_from(["", "h100", "t4"]),
        uptime=st.none() | st.floats(-1, 2),
        incidents=st.integers(0, 100),
    ),
    max_size=4,
)


@given(BIDS, st.sampled_from(["best", "cheapest", "akash1a"]))
def test_the_choice_keeps_every_demand_whatever_is_bid(bids: list[Bid], how: str) -> None:
    """What is taken is affordable, in dollars, of the GPU asked for, and does not depend on the order."""
    wish = Wish(how=how, cap=Decimal(10**6), gpus=("h100",), avoid=frozenset({"akash1d"}))
    try:
        taken = choose(bids, wish)
    except NoBids:
        assert all(one.refused for one in rank(bids, wish))
        return

    assert 0 <= taken.amount <= 10**6
    assert (taken.denom, taken.gpu in {"", "h100"}, taken.provider != "akash1d") == ("uact", True, True)
    prices = {choose(list(shuffled), wish).provider for shuffled in permutations(bids)}
    assert prices == {taken.provider}
    assert len(rows(rank(bids, wish), why=True)) == len(bids) + 1
