"""The deploy machine: no open deployment without a record, whatever fails and whenever."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from akashllm.errors import CheckFailed, MarketError, NoBids, UsageError
from akashllm.market.base import Market
from akashllm.market.choose import Wish, blocks_cap, choose
from akashllm.market.closing import close
from akashllm.market.deploy import Deployer
from akashllm.market.order import STEPS, Order
from akashllm.market.probe import Health
from akashllm.market.view import unrecorded, views
from akashllm.state import Home, Store

from .conftest import KEY
from .scripted import Killed, MortalStore, Notes, Running, ScriptedMarket, Ticking, Verdict, healthy


def deployer(store: Store, market: Market, **changes: Any) -> Deployer:
    """A deployer for which everything goes well unless `changes` say otherwise."""
    usual: dict[str, Any] = {"verify": lambda *_args, **_kwargs: Verdict(), "clock": Ticking(), "ask": healthy}
    return Deployer(market=market, store=store, **{**usual, **changes})


def test_each_step_is_recorded_before_and_after(store: Store, order: Order) -> None:
    """A deployment's events are its steps in order, each begun and ended."""
    outcome = deployer(store, ScriptedMarket()).deploy(order)

    row = outcome.deployment
    steps = [(event.step, event.phase) for event in store.events(row.id)]
    assert steps == [(step, phase) for step in STEPS[:-1] for phase in ("before", "after")]
    assert (row.state, row.step, row.url, row.provider) == ("active", "done", "http://127.0.0.1:1", "p1")
    assert outcome.key == KEY
    assert row.facts["smoke"] == {"ok": True}


def test_deploying_twice_is_deploying_once(store: Store, order: Order) -> None:
    """The second time nothing is created: the outcome says that it runs already."""
    market = ScriptedMarket()
    first = deployer(store, market).deploy(order)
    second = deployer(store, market).deploy(order)

    assert second.already
    assert second.deployment.url == first.deployment.url
    assert second.key == first.key
    assert market.calls.count("create") == 1


def test_another_plan_under_the_same_name_is_refused(store: Store, order: Order) -> None:
    """A name that runs something else is not silently handed over."""
    market = ScriptedMarket()
    deployer(store, market).deploy(order)
    other = replace(order, plan=replace(order.plan, context=512))

    with pytest.raises(UsageError, match="other settings"):
        deployer(store, market).deploy(other)

    assert market.calls.count("create") == 1


def test_a_name_that_came_to_no_order_is_free_for_another_market(store: Store, order: Order) -> None:
    """What a market refused before anything was ordered holds no name; what it has ordered does."""
    elsewhere = ScriptedMarket(available=Decimal(0))
    elsewhere.name = "elsewhere"
    with pytest.raises(MarketError):
        deployer(store, elsewhere).deploy(order)

    outcome = deployer(store, ScriptedMarket()).deploy(order)

    assert (outcome.deployment.market, outcome.deployment.state) == ("scripted", "active")
    elsewhere.available = Decimal(5)
    with pytest.raises(UsageError, match="is deployed on the market scripted"):
        deployer(store, elsewhere).deploy(order)
    assert "create" not in elsewhere.calls


def count_of_changes(home: Home, order: Order) -> int:
    """How often a deployment that goes well writes to the record."""
    with MortalStore(home) as store:
        deployer(store, ScriptedMarket()).deploy(order)
        return store.changes


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_moment_leaves_one_deployment_that_the_record_knows(
    home: Home, order: Order, after: bool
) -> None:
    """Killed at each write of the record, then run again: one deployment is open, recorded, and closes."""
    total = count_of_changes(Home(home.root / "count").prepare(), order)
    assert total == 2 * len(STEPS) - 1
    for moment in range(1, total + 1):
        market = ScriptedMarket(hands_manifest=False)
        place = Home(home.root / str(moment)).prepare()
        with MortalStore(place) as store:
            store.dies_at, store.after = moment, after
            with pytest.raises(Killed):
                deployer(store, market).deploy(order)
        with Store(place) as store:
            references = {row.reference for row in store.all()}
            assert {one.reference for one in market.open.values()} <= references

            row = deployer(store, market).deploy(order).deployment

            assert list(market.open) == [row.dseq], f"killed at change {moment}"
            close(store, market, row)
            assert (market.open, store.all()) == ({}, [])


CALLS = ("screen", "create", "bids", "lease", "status")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("error", [MarketError("no reply"), KeyboardInterrupt()])
def test_a_call_that_fails_or_whose_reply_is_lost_can_be_made_again(
    store: Store, order: Order, call: str, moment: str, error: BaseException
) -> None:
    """Each call fails once, before or after it acted: the next deploy ends with exactly one deployment."""
    failures: Iterator[BaseException] = iter([error])

    def fault(name: str, when: str) -> None:
        if (name, when) == (call, moment) and (failure := next(failures, None)):
            raise failure

    market = ScriptedMarket(fault=fault)
    with pytest.raises(type(error)):
        deployer(store, market).deploy(order)
    assert len(store.all()) == 1

    row = deployer(store, market).deploy(order).deployment

    assert list(market.open) == [row.dseq]
    assert row.state == "active"


def test_a_close_whose_reply_is_lost_is_finished_by_the_next(store: Store, order: Order) -> None:
    """A deployment stays listed until the market has confirmed its end."""
    market = ScriptedMarket()
    row = deployer(store, market).deploy(order).deployment

    def fault(name: str, when: str) -> None:
        if (name, when) == ("close", "before"):
            raise MarketError("no reply")

    market.fault = fault
    with pytest.raises(MarketError):
        close(store, market, row)
    assert [one.state for one in store.all()] == ["closing"]

    market.fault = lambda _name, _when: None
    close(store, market, store.all()[0])

    assert (market.open, store.all()) == ({}, [])


def test_an_order_that_lands_beside_its_repetition_is_shown_and_closed_with_it(
    store: Store, order: Order
) -> None:
    """A second escrow under the reference of a row is listed as its own, and ends when the row is closed."""
    market = ScriptedMarket()
    row = deployer(store, market).deploy(order).deployment
    market.open["77"] = Running(row.reference)

    assert [held.dseq for _, held in unrecorded(store, [market])] == ["77"]
    shown = {one.dseq for one in views(store, [market], ask=healthy) if one.state != "closed"}
    assert shown == {row.dseq, "77"}

    close(store, market, row)
    assert market.open == {}


@pytest.mark.parametrize("step", ["lease", "status"])
def test_a_bid_of_before_is_not_taken_at_a_price_that_is_too_high_now(
    store: Store, order: Order, step: str
) -> None:
    """Interrupted with a bid, then run again with a lower --max-price: that lease is not paid."""
    asked: list[str] = []

    def interrupted(call: str, moment: str) -> None:
        asked.append(call)
        if (call, moment) == (step, "before") and asked.count(step) == 1:
            raise KeyboardInterrupt

    market = ScriptedMarket(fault=interrupted, prices=(("2000", "uact"),))
    with pytest.raises(KeyboardInterrupt):
        deployer(store, market).deploy(order)
    cheaper = replace(order, plan=replace(order.plan, max_price_hour=0.6))
    within = partial(choose, wish=Wish(cap=blocks_cap(0.6)))

    with pytest.raises(NoBids, match="more than the cap"):
        deployer(store, market, choose=within).deploy(cheaper)
    assert market.open == {}


def test_of_orders_that_were_never_answered_a_row_names_one(store: Store, order: Order) -> None:
    """Two deployments of one reference and a row without a number: one is the row's, the other is listed."""

    def lost(call: str, moment: str) -> None:
        if (call, moment) == ("create", "after"):
            raise MarketError("the reply was lost")

    market = ScriptedMarket(fault=lost)
    with pytest.raises(MarketError, match="lost"):
        deployer(store, market).deploy(order)
    (row,) = store.all()
    (first,) = market.open
    market.open["77"] = Running(row.reference)

    assert [held.dseq for _, held in unrecorded(store, [market])] == ["77"]
    close(store, market, row)
    assert (first in market.open, market.open) == (False, {})


def test_what_stopped_is_started_again_with_its_key(store: Store, order: Order) -> None:
    """After a reboot, deploying again leases the same deployment: same number, same key, no second order."""
    market = ScriptedMarket()
    first = deployer(store, market).deploy(order)
    market.open[first.deployment.dseq or ""].state = "stopped"

    second = deployer(store, market).deploy(replace(order, secrets={}))

    assert (second.deployment.dseq, second.key) == (first.deployment.dseq, KEY)
    assert not second.already
    assert market.calls.count("create") == 1


def test_what_the_market_has_closed_is_ordered_anew(store: Store, order: Order) -> None:
    """A deployment that ended at the market is closed in the record, and a new one takes its name."""
    market = ScriptedMarket()
    first = deployer(store, market).deploy(order).deployment
    market.open.clear()

    second = deployer(store, market).deploy(order).deployment

    assert second.id != first.id
    assert store.get(first.id).state == "closed"
    assert list(market.open) == [second.dseq]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"available": Decimal(0)}, "no money"),
        ({"offers": 0}, "no provider could serve this: the GPU rules out 7"),
        ({"prices": ()}, "nobody has bid"),
        ({"prices": (("1", "uact"), ("1", "uakt"))}, "different denominations"),
        ({"after_lease": "failed"}, "tiny-llamacpp failed: because"),
        ({"after_lease": "starting"}, "has not started the service after 30 s"),
    ],
)
def test_what_a_market_refuses_is_said_in_a_sentence(
    store: Store, order: Order, changes: dict[str, Any], message: str
) -> None:
    """Each way in which nothing comes of it ends in its own sentence, and stays in the record as the reason."""
    with pytest.raises(MarketError, match=message) as caught:
        deployer(store, ScriptedMarket(**changes)).deploy(order)

    assert caught.value.hint
    assert message in store.all()[0].reason


def test_a_service_that_fails_to_load_is_closed_at_the_market(store: Store, order: Order) -> None:
    """Nothing that will never answer is left running: the market holds nothing, the record says why."""
    market = ScriptedMarket()

    with pytest.raises(MarketError, match="out of memory"):
        deployer(store, market, ask=lambda _url, _key: Health("failed", reason="out of memory")).deploy(order)

    assert market.open == {}
    assert [(row.state, row.reason) for row in store.all()] == [
        ("failed", "tiny-llamacpp failed: out of memory")
    ]
    assert deployer(store, market).deploy(order).deployment.state == "active"


def test_a_broken_promise_is_an_error_and_the_service_stays(store: Store, order: Order) -> None:
    """A red smoke test fails the command, keeps the service, and is made again by the next deploy."""
    market = ScriptedMarket()

    with pytest.raises(CheckFailed):
        deployer(store, market, verify=lambda *_args, **_kwargs: Verdict(ok=False)).deploy(order)

    row = store.all()[0]
    assert (row.state, row.facts["smoke"], len(market.open)) == ("active", {"ok": False}, 1)
    outcome = deployer(store, market).deploy(order)
    assert (outcome.already, outcome.deployment.step) == (False, "done")
    assert market.calls.count("create") == 1


def test_progress_tells_the_steps_and_the_percentage(store: Store, order: Order) -> None:
    """What happens is told through the protocol, the loading with its percentage."""
    coming = Health("loading", 20.0, "downloading m.gguf at 1 of 5 GiB")
    looks = iter([Health("unreachable"), coming, Health("loading", 50.0), Health("ready")])
    notes = Notes()

    deployer(store, ScriptedMarket(), ask=lambda _url, _key: next(looks), progress=notes).deploy(order)

    steps = [line.split(":")[0] for line in notes.said if ":" in line]
    assert steps == list(STEPS[:-1])
    assert [line for line in notes.said if ":" not in line] == [
        "the port is not open yet None",
        "downloading m.gguf at 1 of 5 GiB 20.0",
        "loading 50.0",
        "ready 100.0",
    ]


def test_weights_that_keep_coming_are_waited_for(store: Store, order: Order) -> None:
    """A download that takes many times the time-out is no failure as long as it comes forward."""
    clock = Ticking()

    def ask(_url: str, _key: str | None) -> Health:
        percent = clock.now / 3
        return Health("ready") if percent >= 100 else Health("loading", percent, "downloading m.gguf")

    assert deployer(store, ScriptedMarket(), clock=clock, ask=ask).deploy(order).deployment.state == "active"
    assert clock.now >= 300 > 5 * order.timeout


def test_weights_that_hardly_come_are_not_waited_for(store: Store, order: Order) -> None:
    """A download that stands still, or as good as, ends the wait at the time-out."""
    clock = Ticking()

    with pytest.raises(MarketError, match="the model is not ready"):
        deployer(
            store,
            ScriptedMarket(),
            clock=clock,
            ask=lambda *_: Health("loading", min(4.0, clock.now), "slowly"),
        ).deploy(order)

    assert clock.now < 2 * order.timeout


def test_the_key_is_nowhere_in_the_record(store: Store, order: Order) -> None:
    """The database, the SDL on disk and the events hold no key: it is in its own file of mode 0600."""
    row = deployer(store, ScriptedMarket()).deploy(order).deployment

    directory = store.home.directory(row.name, row.id)
    holders = [p for p in store.home.root.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert holders == [directory / "api-key"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    assert KEY not in json.dumps(row.plan) + json.dumps(row.facts)
    assert KEY not in repr(order) + repr(row)


def test_two_processes_deploy_one_name_once(home: Home, order: Order) -> None:
    """While one deploys a name another waits, then finds it running."""
    market = ScriptedMarket()
    inside, go, waits = threading.Event(), threading.Event(), threading.Event()

    def slow(*_args: Any, **_kwargs: Any) -> Verdict:
        inside.set()
        assert go.wait(20)
        return Verdict()

    class Waits(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            waits.set()

    outcomes: dict[str, bool] = {}

    def run(who: str, **changes: Any) -> None:
        with Store(home) as store:
            outcomes[who] = deployer(store, market, **changes).deploy(order).already

    first = threading.Thread(target=run, args=("first",), kwargs={"verify": slow})
    first.start()
    assert inside.wait(20)
    second = threading.Thread(target=run, args=("second",), kwargs={"progress": Waits()})
    second.start()
    assert waits.wait(20)
    go.set()
    first.join(20)
    second.join(20)

    assert outcomes == {"first": False, "second": True}
    assert len(market.open) == 1


def test_a_key_is_made_when_none_is_given(store: Store, order: Order) -> None:
    """A new deployment gets a key of its own, long and unlike any other."""
    keys = set()
    market = ScriptedMarket()
    for name in ("one", "two"):
        named = replace(order, plan=replace(order.plan, name=name), secrets={})
        keys.add(deployer(store, market).deploy(named).key)

    assert len(keys) == 2
    assert all(key.startswith("ak-") and len(key) >= 32 for key in keys)
