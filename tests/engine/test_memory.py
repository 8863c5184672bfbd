"""What a model may take is reckoned before it takes it."""

from __future__ import annotations

import pytest

from akashllm.server.engines.blame import ORDER
from akashllm.server.engines.llamacpp import memory
from akashllm.server.engines.llamacpp.memory import choose_threads, fault_of, plan_cache, usable_threads

GIB = 1024**3


@pytest.fixture(autouse=True)
def four_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 4 GiB to spare."""
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * GIB)


def plan(*, context: int = 2048, slots: int = 4, wanted: int = 0, on_gpu: bool = False) -> int:
    """The cache of a model of 1 GiB whose tokens take 128 KiB."""
    return plan_cache(
        weights=GIB, per_token=128 * 1024, context=context, slots=slots, wanted=wanted, on_gpu=on_gpu
    )


def test_room_for_every_slot() -> None:
    """Where there is memory, each slot has its whole context."""
    assert plan() == 8192


def test_less_where_memory_is_short() -> None:
    """Where there is less, the slots share what there is, and one context always fits."""
    tokens = plan(slots=64)
    assert 2048 <= tokens < 64 * 2048
    assert tokens * 128 * 1024 < 3 * GIB


def test_refusal_gives_the_sum() -> None:
    """Where not one context fits, the reason names each part."""
    with pytest.raises(MemoryError, match=r"1\.00 GiB for weights, 8\.00 GiB for a context of 65536 tokens"):
        plan(context=65536)


@pytest.mark.parametrize(("group", "machine", "whose"), [(1, 64, ORDER), (64, 1, ""), (64, 64, "")])
def test_whose_the_want_of_memory_is(
    monkeypatch: pytest.MonkeyPatch, group: int, machine: int, whose: str
) -> None:
    """A control group is as large as it was ordered anywhere; a machine that others fill is one of many."""
    monkeypatch.setattr(memory, "_left_in_group", lambda: group * GIB)
    monkeypatch.setattr(memory, "_left_on_machine", lambda: machine * GIB)
    with pytest.raises(MemoryError) as caught:
        plan(context=1 << 20)

    assert fault_of(caught.value) == whose
    assert fault_of(MemoryError("of another make")) == ""


def test_a_wish_is_bounded() -> None:
    """A wish for more cache than the slots can use is bounded, one for less than a context is raised."""
    assert plan(slots=2, wanted=2_000_000_000) <= 2 * 2 * 2048
    assert plan(wanted=1) == 2048


def test_threads() -> None:
    """A small model gets one thread, a large one what there is, and a wish is taken within reason."""
    assert choose_threads(0, memory.SMALL_MODEL - 1) == 1
    assert choose_threads(0, memory.SMALL_MODEL) == usable_threads() >= 1
    assert choose_threads(1, 1 << 40) == 1
    assert choose_threads(10_000, 1 << 40) == 2 * usable_threads()
