"""Signals to the engine, and the end of the service by force."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.redteam.conftest import Victim, serving

JSON = {"response_format": {"type": "json_object"}, "max_tokens": 5}
"""Asks for a constraint, so that the process that tries them is there as well."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_is_the_services_to_act_on(victim: Victim, number: signal.Signals) -> None:
    """What a terminal or a service manager sends to every process does not end the engine."""
    assert victim.ask(**JSON).status_code == 200
    before = victim.family()
    for process in before:
        process.send_signal(number)
    assert victim.ask(**JSON).status_code == 200
    assert [process.pid for process in victim.family()] == [process.pid for process in before]


def test_killing_the_service_leaves_nothing() -> None:
    """SIGKILL takes the engine and the process that tries constraints along."""
    with serving() as victim:
        assert victim.ask(**JSON).status_code == 200
        family = victim.family()
        assert len(family) == 2
        victim.process.kill()
        victim.process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert [process.pid for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_killing_the_engine_takes_its_helper_and_serves_on() -> None:
    """A killed engine leaves no process behind, and the next one answers the next constrained request."""
    with serving() as victim:
        assert victim.ask(**JSON).status_code == 200
        engine, helper = victim.family()
        engine.kill()
        psutil.wait_procs([helper], timeout=30)
        assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
        assert victim.ask(**JSON).status_code == 200
        assert victim.health()["restarts"] == 1
