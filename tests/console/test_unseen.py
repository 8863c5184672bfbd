"""What Console does not show: behind the chain, of another account, or landing after nobody waits for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from akashllm.errors import KeyRefused, MarketError, MarketUnavailable
from akashllm.market.closing import close
from akashllm.market.console import ConsoleMarket
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_key import ApiKey
from akashllm.market.order import Order
from akashllm.market.view import views
from akashllm.state import Store
from akashllm.testing.market import Fault, MarketServer, Shape, World
from akashllm.testing.market.server import key_of
from tests.cli.conftest import Run, here, home
from tests.market.deploying import deployer, shown
from tests.market.scripted import Notes, Ticking, healthy

from .conftest import MakePlace, Place

__all__ = ["here", "home"]

READ = "GET /v1/deployments/{dseq}"
DELETE = "DELETE /v1/deployments/{dseq}"
CREATE = "POST /v1/deployments"


@dataclass
class Landing(Ticking):
    """Something happens once so much time has passed."""

    after: float = 0.0
    happens: Callable[[], object] = field(default=lambda: None)

    def sleep(self, seconds: float) -> None:
        """Time passes, and it happens."""
        before, self.now = self.now, self.now + seconds
        if before < self.after <= self.now:
            self.happens()


def test_a_close_is_not_believed_where_the_deployment_is_only_not_seen(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """An index that is behind says 404 to what it has just opened: it stays recorded, and is closed later."""
    row = deployer(store, console).deploy(order).deployment
    place.server.faults.add(Fault(DELETE, "404"), Fault(READ, "404"))

    with pytest.raises(MarketUnavailable, match="behind the chain"):
        close(store, console, row)
    with pytest.raises(MarketUnavailable, match="behind the chain"):
        console.status(row.dseq or "")
    assert place.world.open() == {row.dseq} == shown(store, console)

    close(store, console, row)
    assert (place.world.open(), place.world.balance) == (set[str](), Decimal(100))


@pytest.mark.parametrize("skipped", range(4))
def test_a_deployment_that_is_not_seen_for_a_while_is_not_ordered_again(
    place: Place, console: ConsoleMarket, store: Store, order: Order, skipped: int
) -> None:
    """404 at any look on the way is waited out: one order, one lease, and nobody else is paid."""
    place.server.faults.add(*[Fault(READ, "ok")] * skipped, Fault(READ, "404"), Fault(READ, "404"))
    notes = Notes()
    row = deployer(store, console, progress=notes).deploy(order).deployment

    assert (row.provider, place.world.created) == ("akash1cheap", 1)
    assert place.world.open() == {row.dseq}


def test_what_is_long_gone_can_be_dropped(
    place: Place, console: ConsoleMarket, store: Store, order: Order
) -> None:
    """After an hour nothing is behind any longer: a chain that was begun anew holds no record up."""
    row = deployer(store, console).deploy(order).deployment
    place.world.clear()
    del place.world.deployments[row.dseq or ""]
    (path,) = console.journal.root.glob("*.json")
    os.utime(path, (1, 1))

    close(store, console, row)
    assert not store.all()


def test_another_accounts_key_ends_no_record(place: Place, order: Order) -> None:
    """With another key Console knows nothing of the deployment: it stays listed until its own key closes it."""
    with MarketServer(World(shape=place.world.shape), key=key_of("0ther")) as other, Store(place.home) as store:
        mine = place.console()
        row = deployer(store, mine).deploy(order).deployment
        http = ConsoleHttp(ApiKey(other.key), base=other.url, clock=Ticking())
        theirs = ConsoleMarket(http=http, journal=mine.journal, clock=Ticking())

        for attempt in (close, lambda *_: deployer(store, theirs).deploy(order)):
            with pytest.raises(KeyRefused, match="belongs to another API key") as caught:
                attempt(store, theirs, row)
            assert other.key not in str(caught.value) + caught.value.hint
        assert other.changes() == [DELETE]
        (seen,) = views(store, [theirs], ask=healthy)
        assert (seen.dseq, "another API key" in seen.reason) == (row.dseq, True)

        close(store, mine, row)
        assert (place.world.open(), store.all()) == (set(), [])
        http.close()
        mine.close_connections()


def lost(place: Place, store: Store, market: ConsoleMarket, order: Order) -> Callable[[], object]:
    """An order to which no answer came and of which nothing is seen; what makes it land after all."""
    place.server.faults.add(Fault(CREATE, "503", "before"))
    with pytest.raises(MarketUnavailable):
        deployer(store, market).deploy(order)
    assert not place.world.open()
    sent = next(
        json.loads(body)["data"]
        for call, body in zip(place.server.asked, place.server.heard, strict=True)
        if call == CREATE
    )
    return lambda: place.world.create(sent)


def test_an_order_that_may_still_land_is_waited_for(place: Place, store: Store, order: Order) -> None:
    """Deploying again at once finds the first order when its block comes, and sends no second one."""
    market = place.console()
    land = lost(place, store, market, order)
    market.clock = Landing(after=60.0, happens=land)

    row = deployer(store, market).deploy(order).deployment

    assert place.world.open() == {row.dseq}
    assert place.server.asked.count(CREATE) == 1
    market.close_connections()


def test_an_order_that_never_lands_is_sent_again(place: Place, store: Store, order: Order) -> None:
    """The wait ends after two minutes; of an order that is older than that nobody waits at all."""
    market = place.console()
    lost(place, store, market, order)
    clock = market.clock = Ticking()
    row = deployer(store, market).deploy(order).deployment
    assert place.world.open() == {row.dseq}
    assert 100 < clock.now < 130
    close(store, market, row)

    lost(place, store, market, order)
    (path,) = market.journal.root.glob("*.json")
    os.utime(path, (1, 1))
    clock = market.clock = Ticking()
    deployer(store, market).deploy(order)
    assert clock.now == 0
    market.close_connections()


def test_what_lands_after_its_repetition_is_listed_and_ends_with_it(
    make_place: MakePlace, order: Order
) -> None:
    """Two deployments of one name at Console: both are shown, and closing the row closes both."""
    place = make_place(shape=Shape.newer())
    market = place.console()
    with Store(place.home) as store:
        land = lost(place, store, market, order)
        row = deployer(store, market).deploy(order).deployment
        land()

        assert len(place.world.open()) == 2
        assert place.world.open() == shown(store, market)
        close(store, market, row)
    assert (place.world.open(), place.world.balance) == (set[str](), Decimal(100))
    market.close_connections()


def test_an_unanswered_order_of_another_key_is_not_repeated(place: Place, store: Store, order: Order) -> None:
    """It may be open in another account, which is where it has to be looked for."""
    market = place.console()
    lost(place, store, market, order)
    http = ConsoleHttp(ApiKey(key_of("0ther")), base=place.server.url, clock=Ticking())
    place.server.key, mine = key_of("0ther"), place.server.key
    with (
        closing(http),
        pytest.raises(KeyRefused, match="an order that was never answered belongs to another API key"),
    ):
        deployer(store, ConsoleMarket(http=http, journal=market.journal, clock=Ticking())).deploy(order)
    place.server.key = mine
    market.close_connections()


def test_what_is_open_behind_a_key_that_is_gone_is_spoken_of(
    here: Run, place: Place, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `logout` the list shows the row, and says that it may not be all."""
    with closing(place.console().http), Store(place.home) as store:
        row = deployer(store, place.console()).deploy(order).deployment
    for name in ("AKASH_CONSOLE_API_KEY", "AKASH_CONSOLE_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AKASHLLM_HOME", str(place.home.root))

    said = here("list", "--json")
    assert [one["dseq"] for one in said.document["deployments"]] == [row.dseq]
    assert "the market console was not asked: there is no API key" in said.document["not_asked"][0]
    assert here("close", row.name, "--yes").code == KeyRefused.exit_code


def test_an_order_that_the_chain_refuses_is_no_deployment(
    place: Place, console: ConsoleMarket, store: Store, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Console says that it ordered, and the transaction failed: the chain's words are said, nothing is open."""
    from akashllm.testing.market import replies

    def failed(deployed: object, *, manifest: bool) -> dict[str, object]:
        place.world.clear()
        signed = {"code": 5, "transactionHash": "F" * 64, "rawLog": "insufficient funds\n"}
        return {"data": {"dseq": "123456", "manifest": "" if manifest else "[]", "signTx": signed}}

    monkeypatch.setattr(replies, "created", failed)
    with pytest.raises(MarketError, match="the chain refuses the order: insufficient funds"):
        deployer(store, console).deploy(order)

    assert (shown(store, console), console.journal.all()) == (set(), [])
