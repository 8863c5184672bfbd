"""From a plan to a lease over HTTP, and what becomes of it when something goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
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
from akashllm.market.choose import Wish, choose
from akashllm.market.closing import close
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import STEPS, Order
from akashllm.market.probe import Health
from akashllm.state import Store
from akashllm.testing.market import Fault, Provider, Shape
from akashllm.testing.market.faults import Kind, Moment
from tests.market.deploying import deployer, shown
from tests.market.scripted import Notes, Ticking, Verdict

from .conftest import CANARY, MakePlace, Place, provider


def nothing_left(place: Place, store: Store | None = None) -> None:
    """Nothing is open, nothing is recorded as open, and all the money is back."""
    assert place.world.open() == set()
    assert place.world.balance == 100
    assert store is None or not store.all()


def test_a_deployment_goes_from_order_to_url(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """Each step in its turn: one order, one lease with the best bid, an address."""
    row = deployer(store, console).deploy(order).deployment

    assert [event.step for event in store.events(row.id) if event.phase == "after"] == list(STEPS[:-1])
    assert (row.state, row.provider, row.url) == ("active", "akash1cheap", "http://127.0.0.1:9")
    assert place.server.changes() == ["POST /v1/bid-screening", "POST /v1/deployments", "POST /v1/leases"]
    assert place.world.open() == {row.dseq} == shown(store, console)

    close(store, console, row)

    nothing_left(place, store)
    assert console.journal.all() == []


def test_deploying_twice_is_deploying_once(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """The second command finds the first one's deployment and orders nothing."""
    first = deployer(store, console).deploy(order)
    second = deployer(store, console).deploy(order)

    assert second.already
    assert (second.deployment.dseq, place.world.created) == (first.deployment.dseq, 1)


CHANGES = ("POST /v1/deployments", "POST /v1/leases")
READS = (
    "POST /v1/bid-screening",
    "GET /v1/balances",
    "GET /v1/deployments",
    "GET /v1/bids",
    "GET /v1/providers/{address}",
    "GET /v1/deployments/{dseq}",
)
KINDS: tuple[Kind, ...] = ("500", "503", "429", "html", "page", "truncated", "reset", "empty", "list")
FAULTS = [(call, kind, moment) for call in CHANGES for kind in KINDS for moment in ("before", "after")] + [
    (call, kind, "before") for call in READS for kind in ("500", "truncated", "reset")
]


@pytest.mark.parametrize(("call", "kind", "moment"), FAULTS)
def test_one_fault_at_any_call_costs_nothing(
    make_place: MakePlace, order: Order, call: str, kind: Kind, moment: Moment
) -> None:
    """Whatever one call answers, the deployment comes about in this run or the next, and only once."""
    place = make_place(shape=Shape.newer() if moment == "after" else Shape())
    market = place.console()
    place.server.faults.add(Fault(call, kind, moment))
    with Store(place.home) as store:
        try:
            row = deployer(store, market).deploy(order).deployment
        except AkashllmError:
            assert place.world.open() <= shown(store, market)
            assert place.world.total() == 100
            row = deployer(store, market).deploy(order).deployment

        assert (place.world.open(), place.world.created) == ({row.dseq}, 1)
        close(store, market, row)
    nothing_left(place)
    market.close_connections()


@pytest.mark.parametrize("call", ["POST /v1/deployments", "POST /v1/leases"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_silence_is_ended_and_what_it_hid_is_found(
    place: Place, store: Store, order: Order, call: str, moment: Moment
) -> None:
    """No answer in time: what the market did meanwhile is found by listing, and not done again."""
    market = place.console(patience=0.3)
    place.server.faults.add(Fault(call, "hang", moment))
    try:
        row = deployer(store, market).deploy(order).deployment
    except MarketUnavailable:
        assert not place.world.open()
        row = deployer(store, market).deploy(order).deployment

    assert place.world.open() == {row.dseq}
    assert (place.world.created, len(place.world.get(row.dseq or "").leases)) == (1, 1)
    market.close_connections()


def test_an_order_that_is_carried_out_unseen_is_adopted(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """An order whose reply and whose listing are lost belongs to its row, and is not made twice."""
    place.server.faults.add(
        Fault("POST /v1/deployments", "reset", "after"),
        Fault("GET /v1/deployments", "ok"),
        *(Fault("GET /v1/deployments", "500") for _ in range(12)),
    )
    with pytest.raises(MarketUnavailable):
        deployer(store, console).deploy(order)
    (dseq,) = place.world.open()
    assert [one.reference for one in console.holdings()] == [row.reference for row in store.all()]
    place.server.asked.clear()

    row = deployer(store, console).deploy(order).deployment

    assert (row.dseq, place.world.open()) == (dseq, {dseq})
    assert "POST /v1/deployments" not in place.server.asked


def test_closing_what_was_never_seen_closes_it(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """`close` finds an order whose reply was lost."""
    place.server.faults.add(
        Fault("POST /v1/deployments", "reset", "after"),
        Fault("GET /v1/deployments", "ok"),
        *(Fault("GET /v1/deployments", "500") for _ in range(12)),
    )
    with pytest.raises(MarketUnavailable):
        deployer(store, console).deploy(order)

    close(store, console, store.all()[0])

    nothing_left(place, store)


def test_a_stranger_that_may_be_ours_is_neither_adopted_nor_doubled(
    make_place: MakePlace, order: Order
) -> None:
    """An unanswered order and a deployment of another hash: a person decides, nothing is ordered."""
    place = make_place()
    market = place.console()
    with Store(place.home) as store:
        place.server.faults.add(Fault("POST /v1/deployments", "reset", "before"))
        with pytest.raises(MarketUnavailable):
            deployer(store, market).deploy(order)
        other = place.world.create({"sdl": order.sdl.replace("TINY", "x").replace("tiny", "other")})
        with pytest.raises(MarketError, match=f"deployment {other.dseq} may be it"):
            deployer(store, market).deploy(order)
        assert other.dseq in shown(store, market)

        place.world.close(other.dseq)
        row = deployer(store, market).deploy(order).deployment
        assert place.world.open() == {row.dseq}
    market.close_connections()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("401", KeyRefused, "does not accept the API key"),
        ("402", NotEnoughMoney, "cannot pay"),
        ("403", KeyRefused, "may not do that"),
        ("409", MarketError, "something else is under way"),
        ("422", MarketError, "refuses"),
        ("400", MarketError, "no longer open"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_next_step(
    place: Place, console: ConsoleMarket, store: Store, order: Order, kind: Kind, error: Any, words: str
) -> None:
    """Each refusal has its class, its words and its hint; nothing is open and nothing is tried again."""
    place.server.faults.add(Fault("POST /v1/deployments", kind))
    with pytest.raises(error, match=words) as caught:
        deployer(store, console).deploy(order)

    assert caught.value.hint
    assert CANARY not in str(caught.value) + caught.value.hint
    assert (place.world.open(), console.journal.all()) == (set(), [])
    assert place.server.changes().count("POST /v1/deployments") == 1


@pytest.mark.parametrize("behaviour", ["unstable", "bid-gone", "unreachable", "never-starts"])
def test_when_a_provider_fails_the_next_one_is_tried(
    make_place: MakePlace, order: Order, behaviour: Any
) -> None:
    """The lease is closed, its money comes back, and another provider serves; one deployment is left."""
    place = make_place(
        providers=[provider("akash1cheap", behaviour=behaviour), provider("akash1middle")], shape=Shape.newer()
    )
    market, notes = place.console(), Notes()
    with Store(place.home) as store:
        row = deployer(store, market, progress=notes).deploy(order).deployment

        assert (row.provider, row.state) == ("akash1middle", "active")
        assert place.world.open() == {row.dseq} == shown(store, market)
        assert place.world.total() == 100
        assert any("akash1cheap" in line or "taking the next" in line for line in notes.said)
    market.close_connections()


def test_a_service_that_says_it_failed_is_tried_elsewhere(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """A model that does not load on one machine may load on another."""
    looks = iter([Health("failed", reason="the driver is too old")])
    row = deployer(store, console, ask=lambda _url, _key: next(looks, Health("ready"))).deploy(order).deployment

    assert row.provider == "akash1middle"
    assert place.world.open() == {row.dseq}


def test_what_no_provider_could_mend_is_paid_for_once(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """A licence that was not accepted closes the lease with its reason; nobody else is asked for one."""
    gated = Health("failed", reason="o/m is gated: its licence has to be accepted", ordered=True)
    with pytest.raises(MarketError, match="tiny-llamacpp failed: o/m is gated") as caught:
        deployer(store, console, ask=lambda _url, _key: gated).deploy(order)

    assert "no other provider is tried" in caught.value.hint
    assert caught.value.exit_code == MarketError.exit_code
    assert [(row.state, row.facts.get("avoid", [])) for row in store.all()] == [("failed", [])]
    assert place.world.created == 1
    nothing_left(place)


def test_nobody_there_at_the_url_is_the_providers_fault(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """A smoke test that reaches nobody moves on; one that finds a broken promise does not."""
    unreachable = Verdict(ok=False)
    unreachable.as_dict = lambda: {"results": [{"name": "reachable", "verdict": "broken"}]}  # type: ignore[method-assign]
    verdicts = iter([unreachable])
    row = (
        deployer(store, console, verify=lambda *_args, **_kwargs: next(verdicts, Verdict()))
        .deploy(order)
        .deployment
    )

    assert (row.provider, place.world.open()) == ("akash1middle", {row.dseq})


def test_providers_that_all_fail_end_in_a_reason_and_nothing_open(make_place: MakePlace, order: Order) -> None:
    """After the third failure the deployment is closed, and the reason is the provider's in plain words."""
    place = make_place(
        providers=[provider(name, behaviour="unstable") for name in ("akash1a", "akash1b", "akash1c")]
    )
    market = place.console()
    with Store(place.home) as store:
        with pytest.raises(ProviderFailed, match="not available for some minutes"):
            deployer(store, market).deploy(order)

        assert [row.state for row in store.all()] == ["failed"]
    assert place.world.created == 3
    nothing_left(place)
    market.close_connections()


def test_a_provider_that_failed_is_not_taken_again(make_place: MakePlace, order: Order) -> None:
    """Where nobody else bids the deployment ends in that reason, long before the time-out."""
    place = make_place(providers=[provider("akash1only", behaviour="unstable")])
    market, clock = place.console(), Ticking()
    patient = replace(order, timeout=900.0)
    with Store(place.home) as store, pytest.raises(NoBids, match=r"failed already \(akash1\w+: .+\)"):
        deployer(store, market, clock=clock).deploy(patient)

    assert clock.now < 60
    nothing_left(place)
    market.close_connections()


@pytest.mark.parametrize(
    ("world", "error", "words"),
    [
        ({"balance": Decimal(0)}, NotEnoughMoney, "no money"),
        ({"balance": Decimal("0.1")}, NotEnoughMoney, "Not enough balance"),
        ({"providers": []}, NoBids, "no provider could serve this"),
        ({"providers": [provider("akash1bad", audited=False)]}, NoBids, "the audit rules out 1"),
        ({"bids_after": 10**6}, NoBids, "nobody has bid"),
        ({"providers": [provider("akash1big", price="99999")]}, NoBids, "more than the cap"),
        ({"providers": [provider("akash1akt", denom="uakt")]}, NoBids, "do not compare"),
    ],
)
def test_where_nothing_comes_of_it_the_reason_is_said_and_nothing_stays_open(
    make_place: MakePlace, order: Order, world: dict[str, Any], error: type[AkashllmError], words: str
) -> None:
    """No money, no provider, no bids, no bid that will do: one sentence each, and no escrow is held."""
    place = make_place(**world)
    market = place.console()
    chosen = partial(choose, wish=Wish(cap=Decimal(100)))
    with Store(place.home) as store, pytest.raises(error, match=words) as caught:
        deployer(store, market, choose=chosen).deploy(order)

    assert caught.value.hint
    assert ("--any-provider" in caught.value.hint) is ("no provider could" in words or "audit" in words)
    assert place.world.open() == set()
    market.close_connections()


def test_bids_are_gathered_for_a_while(make_place: MakePlace, order: Order) -> None:
    """The first bid is not taken at once: others may be better."""
    place = make_place(bids_after=2)
    market, clock = place.console(), Ticking()
    with Store(place.home) as store:
        deployer(store, market, clock=clock, gather=20.0).deploy(order)

    assert place.server.asked.count("GET /v1/bids") >= 2 + 20 / 3
    assert clock.now >= 20
    market.close_connections()


def test_a_market_that_is_away_while_one_waits_ends_nothing(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """While the model loads, maintenance of the market is a remark, not a failure."""
    waiting = iter([False, True])

    def ask(_url: str, _key: str | None) -> Health:
        if not next(waiting, True):
            place.server.faults.add(*(Fault("GET /v1/deployments/{dseq}", "html") for _ in range(4)))
            return Health("loading", 10.0)
        return Health("ready")

    notes = Notes()
    row = deployer(store, console, ask=ask, progress=notes).deploy(order).deployment

    assert row.state == "active"
    assert any("under maintenance" in line for line in notes.said)


def test_what_ran_out_of_money_is_ordered_anew(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """A lease whose escrow is used up shows the reason, and deploying again makes a new order."""
    first = deployer(store, console).deploy(order).deployment
    place.world.advance(1000)
    assert "escrow was used up" in console.status(first.dseq or "").reason

    second = deployer(store, console).deploy(order).deployment

    assert second.dseq != first.dseq
    assert place.world.open() == {second.dseq}


def test_a_limit_in_hours_is_told_to_the_market(make_place: MakePlace, order: Order) -> None:
    """The market closes the deployment by itself, with nobody's laptop on."""
    place = make_place(shape=Shape.newer())
    market = place.console(hours=2)
    with Store(place.home) as store:
        row = deployer(store, market).deploy(order).deployment
        place.world.advance(1)
        assert market.status(row.dseq or "").state == "running"
        place.world.advance(1)
        assert market.status(row.dseq or "").state == "closed"
    assert place.world.open() == set()
    market.close_connections()


def test_the_consoles_key_is_in_no_file_and_no_message(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """Record, journal, events and reprs hold no key of the account."""
    row = deployer(store, console).deploy(order).deployment
    place.server.faults.add(Fault("DELETE /v1/deployments/{dseq}", "400", message=f"no {CANARY} here"))
    with pytest.raises(MarketError) as caught:
        close(store, console, row)

    holders = [
        path for path in store.home.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert holders == []
    assert CANARY not in str(caught.value) + caught.value.hint
    assert CANARY not in repr(console) + repr(console.http) + repr(replace(order)) + repr(store.events(row.id))


def test_hours_of_money_left_are_told(place: Place, console: ConsoleMarket, store: Store, order: Order) -> None:
    """Half a dollar at 4 uact a block lasts 208 hours."""
    row = deployer(store, console).deploy(order).deployment

    assert console.status(row.dseq or "").hours == pytest.approx(0.5 * 1_000_000 / 4 / 600)


def test_a_provider_is_a_provider() -> None:
    """The scripted providers differ in price alone."""
    assert [Provider(address="a").audited, provider("akash1cheap").price] == [True, "4"]
