"""The invariant over generated misfortune: no open escrow that `akashllm list` does not show."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from akashllm.errors import AkashllmError
from akashllm.market.order import Order
from akashllm.state import Home, Store
from akashllm.testing.market import Fault, Faults, MarketServer, Shape, World
from akashllm.testing.market.faults import REFUSALS
from tests.market.deploying import MEMORY, ROUNDS, run, shown
from tests.market.scripted import Killed, MortalStore

from .conftest import CANARY, PROVIDERS, Place, provider

CALLS = (
    "POST /v1/deployments",
    "POST /v1/leases",
    "DELETE /v1/deployments/{dseq}",
    "GET /v1/deployments",
    "GET /v1/deployments/{dseq}",
    "GET /v1/bids",
    "GET /v1/balances",
    "POST /v1/bid-screening",
)
KINDS = ("400", "401", "402", "409", "429", "500", "502", "html", "page", "truncated", "reset", "empty", "list")
faults = st.builds(
    lambda call, kind, moment, times: (
        [
            # A market refuses before it acts, never afterwards.
            Fault(call, kind, "before" if kind in REFUSALS else moment)
        ]
        * times
    ),
    st.sampled_from(CALLS),
    st.sampled_from(KINDS),
    st.sampled_from(["before", "after"]),
    st.sampled_from([1, 1, 2, 5]),
)
misfortune = st.tuples(
    st.lists(faults | st.builds(lambda call: [Fault(call, "ok")], st.sampled_from(CALLS)), max_size=6),
    st.none() | st.tuples(st.integers(1, 25), st.booleans()),
)


@pytest.fixture(scope="module")
def server() -> Iterator[MarketServer]:
    """One server for all examples; each has a world of its own."""
    with MarketServer(key=CANARY) as server:
        yield server
    assert server.broken == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(
    max_examples=220,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Each example is short enough to be read as it is, and shrinking one takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    rounds=st.lists(misfortune, min_size=1, max_size=len(ROUNDS)),
    shape=st.sampled_from([Shape(), Shape.newer()]),
    bad=st.sampled_from([(), (("akash1cheap", "unstable"),), (("akash1cheap", "bid-gone"),)]),
)
def test_no_money_is_held_by_what_is_not_shown(
    server: MarketServer,
    order: Order,
    rounds: list[tuple[list[list[Fault]], tuple[int, bool] | None]],
    shape: Shape,
    bad: tuple[tuple[str, str], ...],
) -> None:
    """Faults, lost replies and kills in any order: what is open is shown, and ends with one `close`."""
    providers = [provider(name, behaviour=dict(bad).get(name, "runs")) for name in PROVIDERS]
    server.world, server.faults = World(providers=providers, shape=shape), Faults()
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        place = Place(server, Home(Path(directory) / "home").prepare())
        market = place.console(patience=5.0)
        with contextlib.closing(market.http):
            for what, (sequence, death) in zip(ROUNDS, rounds, strict=False):
                server.faults.add(*(fault for some in sequence for fault in some))
                with MortalStore(place.home) as store:
                    store.dies_at, store.after = death or (-1, False)
                    with contextlib.suppress(AkashllmError, Killed):
                        run(what, store, market, order)
                server.faults.clear()
                with Store(place.home) as store:
                    assert server.world.open() <= shown(store, market)
                assert server.world.total() == Decimal(100)

            with Store(place.home) as store:
                run("deploy", store, market, replace(order))
                (row,) = store.all()
                assert server.world.open() == {row.dseq}
                run("close", store, market, order)
                assert not store.all()
            assert (server.world.open(), server.world.balance) == (set[str](), Decimal(100))
