"""From a plan to a lease with one's own key, and what becomes of it when something goes wrong on the way."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from akashllm.errors import (
    AkashllmError,
    KeyRefused,
    MarketError,
    MarketUnavailable,
    NoBids,
    NotEnoughMoney,
    ProviderFailed,
)
from akashllm.market.closing import close
from akashllm.market.order import Order
from akashllm.market.view import views
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_cli import Ran
from akashllm.state import Store
from akashllm.testing.market.world import OWNER
from akashllm.testing.wallet import Trouble
from akashllm.testing.wallet.command import Kind, Moment
from tests.market.deploying import deployer, shown
from tests.market.scripted import Ticking, healthy

from .conftest import KEY, MakePlace, Place, provider


def nothing_left(place: Place) -> None:
    """Nothing is open, and all the money is back."""
    assert place.world.open() == set()
    assert place.world.balance == 100


def test_a_deployment_goes_from_order_to_url_and_back(place: Place, store: Store, order: Order) -> None:
    """One order, one lease with the best bid, an address; closing leaves neither escrow nor file."""
    market = place.wallet()
    row = deployer(store, market).deploy(order).deployment

    assert (row.state, row.provider, row.url) == ("active", "akash1cheap", "http://127.0.0.1:9")
    assert place.world.open() == {row.dseq} == shown(store, market)
    sent = [call for call in place.command.asked if call.startswith("tx ")]
    assert sent == ["tx deployment create", "tx market lease create"]
    assert market.balance().committed == Decimal(5)
    standing = market.status(row.dseq or "")
    assert (standing.state, standing.provider) == ("running", "akash1cheap")
    assert standing.hours == pytest.approx(5 * 1_000_000 / 4 / 600)

    close(store, market, row)

    nothing_left(place)
    assert not store.all()
    assert list((place.home.root / "wallet" / "orders").iterdir()) == []
    assert market.account().address == OWNER


def test_what_is_sent_is_signed_by_the_named_key_and_holds_no_secret(
    place: Place, store: Store, order: Order
) -> None:
    """Every transaction names its key and its number; no argument holds the API key."""
    deployer(store, place.wallet()).deploy(order)

    for words in place.command.argv:
        assert KEY not in " ".join(words)
        if words[0] == "tx":
            assert words[words.index("--from") + 1] == "mine"
    created = next(words for words in place.command.argv if words[:3] == ["tx", "deployment", "create"])
    assert created[created.index("--deposit") + 1] == "5000000uact"


def test_the_sdl_with_its_secrets_is_private_and_goes_when_the_provider_has_it(
    make_place: MakePlace, order: Order
) -> None:
    """Until the manifest is delivered its SDL lies in a file of mode 0600; afterwards in none."""
    place = make_place(providers=[provider("akash1cheap", behaviour="unreachable")])
    market = place.wallet()
    created = market.create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")
    (kept,) = (place.home.root / "wallet" / "orders").glob("*.yaml")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert KEY in kept.read_text()
    with pytest.raises(ProviderFailed, match="does not take the manifest"):
        market.lease(created.dseq, market.bids(created.dseq)[0], "")
    assert kept.exists()

    place.world.providers[0].behaviour = "runs"
    market.lease(created.dseq, market.bids(created.dseq)[0] if market.bids(created.dseq) else _any(), "")

    assert not kept.exists()
    assert KEY in json_of(place)


def _any() -> Any:
    from akashllm.market.base import Bid

    return Bid(provider="akash1cheap", amount=Decimal(4), denom="uact")


def json_of(place: Place) -> str:
    """The manifest that the provider has."""
    (deployed,) = place.world.deployments.values()
    return deployed.leases[0].manifest or ""


def test_deploying_twice_is_deploying_once(place: Place, store: Store, order: Order) -> None:
    """The second command finds the first one's deployment and orders nothing."""
    first = deployer(store, place.wallet()).deploy(order)
    second = deployer(store, place.wallet()).deploy(order)

    assert second.already
    assert (second.deployment.dseq, place.world.created) == (first.deployment.dseq, 1)


CHANGES = ("tx deployment create", "tx market lease create", "send-manifest")
KINDS: tuple[Kind, ...] = (
    *("hang", "killed", "empty", "truncated", "noise", "unreachable", "late", "again", "sequence", "gas"),
    *("prompt", "panic", "garbage"),
)
FAULTS = [(call, kind, moment) for call in CHANGES for kind in KINDS for moment in ("before", "after")] + [
    (call, kind, "before")
    for call in ("query deployment get", "query market bid list", "query tx", "lease-status", "version")
    for kind in ("hang", "killed", "truncated", "unreachable", "garbage")
]


@pytest.mark.parametrize(("call", "kind", "moment"), FAULTS)
def test_one_fault_at_any_call_costs_nothing(
    make_place: MakePlace, order: Order, call: str, kind: Kind, moment: Moment
) -> None:
    """Whatever becomes of one call, the deployment comes about in this run or the next, and only once."""
    place = make_place()
    place.command.trouble(Trouble(call, kind, moment))
    with Store(place.home) as store:
        try:
            row = deployer(store, place.wallet()).deploy(order).deployment
        except AkashllmError:
            assert place.world.open() <= shown(store, place.wallet())
            row = deployer(store, place.wallet()).deploy(order).deployment
        place.command.settle()

        assert (place.world.open(), place.world.created) == ({row.dseq}, 1)
        assert len(place.world.get(row.dseq or "").leases) == 1
        assert place.world.total() == 100
        close(store, place.wallet(), row)
    nothing_left(place)


def test_a_transaction_that_waits_is_not_sent_again_under_another_number(
    make_place: MakePlace, order: Order
) -> None:
    """An order whose block is late is waited for; deploying again uses its number, so that one can open."""
    place = make_place()
    place.command.trouble(Trouble("tx deployment create", "late", calls=10_000))
    with Store(place.home) as store:
        with pytest.raises(MarketUnavailable, match="in no block yet") as caught:
            deployer(store, place.wallet()).deploy(order)
        assert caught.value.acted is None
        row = deployer(store, place.wallet()).deploy(order).deployment
        place.command.settle()

        assert (place.world.open(), place.world.created) == ({row.dseq}, 1)
        numbers = {
            words[words.index("--dseq") + 1]
            for words in place.command.argv
            if words[:3] == ["tx", "deployment", "create"]
        }
        assert numbers == {row.dseq}


@pytest.mark.parametrize("call", ["tx deployment create", "tx market lease create", "tx deployment close"])
def test_a_transaction_that_the_mempool_has_already_is_waited_for(
    place: Place, store: Store, order: Order, call: str
) -> None:
    """The same bytes again are no refusal: their block comes, and what it carries out is found."""
    place.command.trouble(Trouble(call, "again"))
    row = deployer(store, place.wallet()).deploy(order).deployment
    close(store, place.wallet(), row)

    assert place.command.asked.count(call) == 1
    nothing_left(place)


GONE = "rpc error: code = Unknown desc = Deployment not found: key not found"


def unseen(place: Place, times: int) -> list[Trouble]:
    """The node does not show a deployment for so many looks."""
    call = "query deployment" if place.command.name == "akt" else "query deployment get"
    return [Trouble(call, "refused", words=GONE) for _ in range(times)]


def test_a_close_is_not_believed_where_the_node_is_behind(place: Place, store: Store, order: Order) -> None:
    """What was ordered is on the chain, whatever a node says: it stays recorded, and is closed later."""
    market = place.wallet()
    row = deployer(store, market).deploy(order).deployment
    place.command.trouble(*unseen(place, 2))

    with pytest.raises(MarketUnavailable, match="it is behind"):
        close(store, market, row)
    with pytest.raises(MarketUnavailable, match="it is behind"):
        market.status(row.dseq or "")
    assert place.world.open() == {row.dseq} == shown(store, market)

    close(store, market, row)
    nothing_left(place)


@pytest.mark.parametrize("after", ["tx deployment create", "tx market lease create"])
def test_a_deployment_that_the_node_does_not_show_is_not_ordered_again(
    place: Place, store: Store, order: Order, after: str
) -> None:
    """A node that falls behind on the way is waited for: one order, one lease, and nobody else is paid."""
    command = place.command
    run, done = command.run, False

    def behind(argv: Sequence[str], env: Mapping[str, str], seconds: float) -> Ran:
        nonlocal done
        ran = run(argv, env, seconds)
        if not done and command.asked and command.asked[-1] == after:
            done = True
            command.trouble(*unseen(place, 2))
        return ran

    market = place.wallet()
    market = WalletMarket(
        cli=replace(market.cli, run=behind), orders=market.orders, key=market.key, clock=Ticking()
    )
    row = deployer(store, market).deploy(order).deployment

    assert (row.provider, place.world.created) == ("akash1cheap", 1)
    assert place.world.open() == {row.dseq} == shown(store, market)


def test_what_a_chain_that_was_begun_anew_never_had_can_be_dropped(
    place: Place, store: Store, order: Order
) -> None:
    """After an hour no node is behind any longer: the record is closed."""
    market = place.wallet()
    row = deployer(store, market).deploy(order).deployment
    place.world.clear()
    del place.world.deployments[row.dseq or ""]
    for path in (place.home.root / "wallet" / "orders").iterdir():
        os.utime(path, (1, 1))

    close(store, market, row)
    assert not store.all()


def test_a_transaction_that_lands_after_everything_was_given_up_is_listed(
    make_place: MakePlace, order: Order
) -> None:
    """The row is closed, then the block comes: the escrow shows in the list, and `close` ends it."""
    place = make_place()
    place.command.trouble(Trouble("tx deployment create", "late", calls=10_000))
    with Store(place.home) as store:
        with pytest.raises(MarketUnavailable):
            deployer(store, place.wallet()).deploy(order)
        close(store, place.wallet(), store.all()[0])
        assert place.world.open() == set()
        place.command.settle()

        (dseq,) = place.world.open()
        assert dseq in shown(store, place.wallet(key=""))
        place.wallet(key="").close(dseq)
    nothing_left(place)


def test_what_another_tool_has_opened_is_listed_and_can_be_closed(make_place: MakePlace, order: Order) -> None:
    """The list is the chain's, for every key that was used here; nothing in it needs a record."""
    place = make_place()
    with Store(place.home) as store:
        close(store, place.wallet(), deployer(store, place.wallet()).deploy(order).deployment)
        other = place.world.create({"sdl": order.sdl}, "4711")
        market = place.wallet(key="")
        (seen,) = views(store, [market], ask=healthy)
        assert (seen.state, seen.dseq, seen.market) == ("unrecorded", other.dseq, "wallet")
        market.close(other.dseq)
    nothing_left(place)


def test_secrets_of_an_order_that_never_landed_do_not_stay(make_place: MakePlace, order: Order) -> None:
    """After an hour in no block its SDL and its note are removed; before that they are what finds it."""
    place = make_place()
    place.command.trouble(Trouble("tx deployment create", "late", calls=10**6))
    with pytest.raises(MarketUnavailable):
        place.wallet().create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")
    place.wallet().holdings()
    directory = place.home.root / "wallet" / "orders"
    assert len(list(directory.iterdir())) == 2
    for path in directory.iterdir():
        os.utime(path, (1, 1))
    place.wallet().holdings()
    assert list(directory.iterdir()) == []

    place.command.settle()
    (dseq,) = place.world.open()
    assert [held.dseq for held in place.wallet().holdings()] == [dseq]
    place.wallet().close(dseq)
    nothing_left(place)


def test_a_sequence_mismatch_is_tried_again_and_an_unknown_outcome_is_not(
    make_place: MakePlace, order: Order
) -> None:
    """Only what the mempool has refused is sent twice."""
    place = make_place()
    place.command.trouble(
        Trouble("tx deployment create", "sequence"), Trouble("tx deployment create", "sequence")
    )
    market = place.wallet()
    market.create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")
    assert place.command.asked.count("tx deployment create") == 3

    place.command.trouble(Trouble("tx deployment create", "killed", "after"))
    market.create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="b")
    assert place.command.asked.count("tx deployment create") == 4
    assert place.world.created == 2


REFUSALS = [
    (
        "account sequence mismatch, expected 3, got 2: incorrect account sequence",
        MarketUnavailable,
        "under way",
    ),
    (
        "rpc error: desc = spendable balance 1uakt is smaller than 2uakt: insufficient funds",
        NotEnoughMoney,
        "pay",
    ),
    ("insufficient fees; got: 1uakt required: 5uakt: insufficient fee", NotEnoughMoney, "pay"),
    ('no certificate file found for account "akash1x"', KeyRefused, "certificate"),
    ("mine.info: key not found", KeyRefused, "did not sign"),
    ("too many failed passphrase attempts", KeyRefused, "did not sign"),
    ("EOF", KeyRefused, "did not sign"),
    ("unknown flag: --deposit", MarketError, "does not know"),
    ('unsupported denomination "uakt"', MarketError, "refuses"),
    ("out of gas in location: ReadFlat: out of gas", MarketUnavailable, "gas"),
    ("post failed: context deadline exceeded", MarketUnavailable, "failed"),
]


@pytest.mark.parametrize(("words", "error", "said"), REFUSALS)
def test_a_refusal_is_one_sentence_with_the_next_step(
    make_place: MakePlace, order: Order, words: str, error: type[AkashllmError], said: str
) -> None:
    """Each has its class, its words and its hint; what was certainly not carried out leaves nothing behind."""
    place = make_place()
    place.command.trouble(*(Trouble("tx deployment create", "refused", words=words) for _ in range(3)))
    with Store(place.home) as store, pytest.raises(error, match=said) as caught:
        deployer(store, place.wallet()).deploy(order)

    assert caught.value.hint
    assert place.world.open() == set()
    certain = not isinstance(caught.value, MarketUnavailable) or caught.value.acted is False
    assert bool(place.orders.all()) is not certain


@pytest.mark.parametrize("behaviour", ["unstable", "bid-gone", "unreachable", "never-starts"])
def test_when_a_provider_fails_the_next_one_is_tried(
    make_place: MakePlace, order: Order, behaviour: Any
) -> None:
    """The lease is closed, its money comes back, and another provider serves; one deployment is left."""
    place = make_place(providers=[provider("akash1cheap", behaviour=behaviour), provider("akash1middle")])
    market = place.wallet()
    with Store(place.home) as store:
        row = deployer(store, market).deploy(order).deployment

        assert (row.provider, row.state) == ("akash1middle", "active")
        assert place.world.open() == {row.dseq} == shown(store, market)
    assert place.world.total() == 100


@pytest.mark.parametrize(
    ("world", "error", "words"),
    [
        ({"balance": Decimal(0)}, MarketError, "no money"),
        ({"balance": Decimal("0.1")}, NotEnoughMoney, "insufficient funds"),
        ({"bids_after": 10**6}, NoBids, "nobody has bid"),
        ({"providers": [provider("akash1akt", denom="uakt")]}, NoBids, "do not compare"),
    ],
)
def test_where_nothing_comes_of_it_the_reason_is_said_and_nothing_stays_open(
    make_place: MakePlace, order: Order, world: dict[str, Any], error: type[AkashllmError], words: str
) -> None:
    """No money, no bids, no bid that will do: one sentence each, and no escrow is held."""
    place = make_place(**world)
    with Store(place.home) as store, pytest.raises(error, match=words) as caught:
        deployer(store, place.wallet()).deploy(order)

    assert caught.value.hint
    assert place.world.open() == set()
    if world.get("balance") == 0:
        assert "mint-act" in caught.value.hint


def test_what_ran_out_of_money_is_ordered_anew(make_place: MakePlace, order: Order) -> None:
    """A lease whose escrow is used up shows the reason, and deploying again makes a new order."""
    place = make_place()
    with Store(place.home) as store:
        market = place.wallet()
        first = deployer(store, market).deploy(order).deployment
        place.world.advance(10_000)
        assert "escrow was used up" in market.status(first.dseq or "").reason
        second = deployer(store, market).deploy(order).deployment

        assert second.dseq != first.dseq
        assert place.world.open() == {second.dseq}
