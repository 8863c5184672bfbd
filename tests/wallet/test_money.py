"""The invariant over generated misfortune: no open escrow that `akashllm list` does not show."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from akashllm.errors import AkashllmError
from akashllm.market.order import Order
from akashllm.state import Home, Store
from akashllm.testing.market import World
from akashllm.testing.wallet import FakeCommand, Trouble
from tests.market.deploying import MEMORY, ROUNDS, run, shown
from tests.market.scripted import Killed, MortalStore

from .conftest import PROVIDERS, Place, provider

CALLS = (
    "tx deployment create",
    "tx deployment create",
    "tx market lease create",
    "tx deployment close",
    "send-manifest",
    "lease-status",
    "query tx",
    "query deployment get",
    "query deployment list",
    "query market bid list",
    "query market lease list",
    "query bank balances",
    "version",
)
KINDS = (
    *("hang", "killed", "empty", "truncated", "noise", "unreachable", "refused", "late", "sequence", "gas"),
    *("prompt", "panic", "garbage"),
)
troubles = st.builds(
    lambda call, kind, moment, times, calls: [Trouble(call, kind, moment, calls=calls)] * times,
    st.sampled_from(CALLS),
    st.sampled_from(KINDS),
    st.sampled_from(["before", "after"]),
    st.sampled_from([1, 1, 2, 5]),
    st.sampled_from([2, 10, 40, 100_000]),
)
misfortune = st.tuples(
    st.lists(troubles | st.builds(lambda call: [Trouble(call, "ok")], st.sampled_from(CALLS)), max_size=6),
    st.none() | st.tuples(st.integers(1, 25), st.booleans()),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(
    max_examples=220,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    rounds=st.lists(misfortune, min_size=1, max_size=len(ROUNDS)),
    bad=st.sampled_from([(), (("akash1cheap", "unstable"),), (("akash1cheap", "bid-gone"),)]),
)
def test_no_money_is_held_by_what_is_not_shown(
    order: Order,
    rounds: list[tuple[list[list[Trouble]], tuple[int, bool] | None]],
    bad: tuple[tuple[str, str], ...],
) -> None:
    """Faults, lost replies, late blocks and kills in any order: what is open is shown, and can be closed."""
    world = World(providers=[provider(name, behaviour=dict(bad).get(name, "runs")) for name in PROVIDERS])
    command = FakeCommand(world)
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        place = Place(command, Home(Path(directory) / "home").prepare())
        for what, (sequence, death) in zip(ROUNDS, rounds, strict=False):
            command.trouble(*(one for some in sequence for one in some))
            with MortalStore(place.home) as store:
                store.dies_at, store.after = death or (-1, False)
                with contextlib.suppress(AkashllmError, Killed):
                    run(what, store, place.wallet(), order)
            command.calm()
            with Store(place.home) as store:
                assert world.open() <= shown(store, place.wallet())
            assert world.total() == Decimal(100)

        command.settle()
        with Store(place.home) as store:
            assert world.open() <= shown(store, place.wallet())
            run("deploy", store, place.wallet(), replace(order))
            (row,) = store.all()
            ours = {row.dseq}
            # What landed after its row was given up is shown as nobody's, and closed by its number.
            for dseq in world.open() - ours:
                assert dseq in shown(store, place.wallet())
                place.wallet().close(dseq)
            assert world.open() == ours
            run("close", store, place.wallet(), order)
            assert not store.all()
        assert (world.open(), world.balance) == (set[str](), Decimal(100))
        assert place.orders.all() == [] or all(one.unsure for one in place.orders.all())
