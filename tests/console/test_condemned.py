"""A model that no provider can load, from the engine's own words to the end of the deployment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from akashllm.errors import MarketError
from akashllm.market.clock import RealClock
from akashllm.market.order import Order
from akashllm.market.probe import probe
from akashllm.models import TINY
from akashllm.sdl import with_variable
from akashllm.state import Store
from akashllm.testing.market.providers import LocalRunner
from tests.market.deploying import deployer

from .conftest import MakePlace, provider


@pytest.mark.engine
def test_a_broken_model_is_paid_for_once(make_place: MakePlace, tmp_path: Path, order: Order) -> None:
    """Half a model ends the deployment on the first of two providers, with llama.cpp's own reason."""
    half = tmp_path / "half.gguf"
    half.write_bytes(Path(TINY).read_bytes()[:2_000_000])
    broken = replace(order, sdl=with_variable(order.sdl, "AKASHLLM_MODEL", str(half)), timeout=100.0)
    names = ("akash1cheap", "akash1dear")
    place = make_place(providers=[provider(name, runner=LocalRunner(tmp_path / name)) for name in names])
    market = place.console()
    with Store(place.home) as store:
        with pytest.raises(MarketError, match="incomplete") as caught:
            deployer(store, market, clock=RealClock(), ask=probe).deploy(broken)
        assert [row.state for row in store.all()] == ["failed"]
    market.close_connections()

    assert "no other provider is tried" in caught.value.hint
    assert place.world.created == 1
    assert place.world.open() == set()
