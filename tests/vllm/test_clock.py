"""When a vLLM that says nothing is suspected."""

from __future__ import annotations

import pytest

from akashllm.server.engines.vllm import clock as module
from akashllm.server.engines.vllm.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    time = [1000.0]
    monkeypatch.setattr(module, "perf_counter", lambda: time[0])
    return time


def test_silence_counts_while_something_is_expected(now: list[float]) -> None:
    """It grows from the last word on, and there is none while nothing is expected."""
    clock = Clock()
    now[0] += 500
    assert clock.read() == (0.0, 0)
    clock.expect(1, 30)
    now[0] += 5
    clock.expect(2, 12)
    assert clock.read() == (5.0, 42)
    clock.hear()
    now[0] += 2
    clock.drop(1)
    assert clock.read() == (2.0, 12)
    clock.drop(2)
    assert clock.read() == (0.0, 0)


def test_who_comes_while_another_is_held_is_not_counted_as_waiting_since_then(now: list[float]) -> None:
    """A reader that was slow for minutes does not make the next request look as if it had waited for them."""
    clock = Clock()
    clock.expect(1, 30)
    clock.hear()
    clock.drop(1)
    now[0] += 300
    clock.expect(2, 8)
    assert clock.read() == (0.0, 8)
    now[0] += 1
    clock.expect(1, 30)
    assert clock.read() == (1.0, 38)
