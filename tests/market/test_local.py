"""The market `local`: a supervised process that nothing but `close` ends, and that `close` ends wholly."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from akashllm.errors import MarketError
from akashllm.market.local import LocalMarket
from akashllm.market.local_files import MARK, Lodging
from akashllm.market.order import Order
from akashllm.market.probe import probe
from akashllm.market.processes import Process, with_variable
from akashllm.sdl import fill, load, manifest_json
from akashllm.state import Home

from .conftest import KEY, MakeMarket


def lease(market: LocalMarket, order: Order) -> str:
    """Create, take the one bid, hand the manifest over."""
    created = market.create(fill(order.sdl, order.secrets), reference="r-1")
    assert created.manifest
    market.lease(created.dseq, market.bids(created.dseq)[0], created.manifest)
    return created.dseq


def answering(market: LocalMarket, dseq: str) -> requests.Response:
    """What the stand-in answers once it listens."""
    until(lambda: health(market, dseq) is not None)
    reply = requests.get(f"{market.status(dseq).url}/", headers={"Authorization": f"Bearer {KEY}"}, timeout=5)
    assert reply.status_code == 200
    return reply


def health(market: LocalMarket, dseq: str) -> requests.Response | None:
    """What it says of itself, or None while it does not listen."""
    try:
        return requests.get(f"{market.status(dseq).url}/health", timeout=5)
    except requests.ConnectionError:
        return None


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for another process to get there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never happened")


def processes(market: LocalMarket, dseq: str) -> list[Process]:
    """Every living process of a deployment."""
    return with_variable(MARK, str(market.root / dseq))


def test_the_service_gets_the_manifests_environment_on_an_address_of_this_machine(
    make_market: MakeMarket, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is the manifest's, but for address and key; nothing secret of the caller's gets in."""
    monkeypatch.setenv("SOME_TOKEN", "canary-of-the-caller")
    market = make_market()
    dseq = lease(market, order)

    env = answering(market, dseq).json()["env"]

    assert env["AKASHLLM_MODEL"] == "tiny"
    assert env["AKASHLLM_CONTEXT"] == "2048"
    assert env["AKASHLLM_HOST"] == "127.0.0.1"
    assert market.status(dseq).url == f"http://127.0.0.1:{env['AKASHLLM_PORT']}"
    assert "AKASHLLM_API_KEY" not in env
    assert "SOME_TOKEN" not in env
    assert KEY not in str(env)


def test_the_key_is_in_files_of_mode_0600_only(make_market: MakeMarket, order: Order) -> None:
    """The key is in one file that only its owner can read, in no argv and in no environment."""
    market = make_market()
    dseq = lease(market, order)
    answering(market, dseq)
    directory = market.root / dseq

    holders = [path for path in directory.rglob("*") if path.is_file() and KEY in path.read_text()]

    assert holders == [directory / "api-key"]
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    for process in processes(market, dseq):
        assert KEY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert KEY.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_close_leaves_no_process_and_no_secret(make_market: MakeMarket, order: Order) -> None:
    """Closing ends the supervisor, the service and what the service left in a session of its own."""
    market = make_market("children")
    dseq = lease(market, order)
    answering(market, dseq)
    before = processes(market, dseq)
    assert len(before) == 3

    market.close(dseq)

    assert [process for process in before if process.alive()] == []
    assert processes(market, dseq) == []
    assert not (market.root / dseq / "api-key").exists()
    assert not (market.root / dseq / "run.json").exists()
    assert market.status(dseq).state == "closed"
    assert market.holdings() == []
    market.close(dseq)


def test_a_second_lease_starts_nothing(make_market: MakeMarket, order: Order) -> None:
    """Leasing what runs is no second service."""
    market = make_market()
    dseq = lease(market, order)
    pid = answering(market, dseq).json()["pid"]

    created = market.create(fill(order.sdl, order.secrets), reference="r-1")
    market.lease(created.dseq, market.bids(dseq)[0], created.manifest or "")

    assert created.dseq == dseq
    assert answering(market, dseq).json()["pid"] == pid
    assert len(market.holdings()) == 1


def test_a_crashed_service_comes_back_at_the_same_address(make_market: MakeMarket, order: Order) -> None:
    """The supervisor starts a crashed service again, counts it, and says how it ended."""
    market = make_market("children")
    dseq = lease(market, order)
    first = answering(market, dseq).json()["pid"]
    url = market.status(dseq).url

    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/crash", timeout=5)
    until(lambda: market.status(dseq).restarts == 1 and health(market, dseq) is not None)

    assert answering(market, dseq).json()["pid"] != first
    assert market.status(dseq).url == url
    assert market.status(dseq).state == "running"
    # The child of the first run went with it: supervisor, service and one child are left.
    assert len(processes(market, dseq)) == 3


def test_a_service_that_dies_again_and_again_is_given_up(make_market: MakeMarket, order: Order) -> None:
    """After a few runs that ended at once the deployment has failed, and its reason has the last line."""
    market = make_market("dies")
    dseq = lease(market, order)

    until(lambda: market.status(dseq).state == "failed" and not processes(market, dseq))

    standing = market.status(dseq)
    assert standing.reason == "the service ended with status 5; it said last: starting / starting"
    assert standing.restarts == 3
    assert [line.text for line in market.logs(dseq)] == ["starting"] * 4


def test_a_service_that_is_set_up_wrongly_is_given_up_at_once(make_market: MakeMarket, order: Order) -> None:
    """Exit status 2 says that no second try can help."""
    market = make_market("usage")
    dseq = lease(market, order)

    until(lambda: market.status(dseq).state == "failed")

    assert market.status(dseq).restarts == 0


def test_a_killed_supervisor_takes_the_service_with_it(make_market: MakeMarket, order: Order) -> None:
    """Without its supervisor a service ends, the deployment counts as stopped, and a lease starts it again."""
    market = make_market()
    dseq = lease(market, order)
    service = answering(market, dseq).json()["pid"]
    supervisor = Lodging(market.root / dseq).record()
    assert supervisor
    process = Process.of(service)
    assert process

    os.kill(supervisor.supervisor.pid, signal.SIGKILL)

    assert process.wait(10)
    standing = market.status(dseq)
    assert standing.state == "stopped"
    assert "supervisor is gone" in standing.reason
    lease(market, order)
    assert answering(market, dseq).json()["pid"] != service
    assert market.status(dseq).url == standing.url


def test_a_pid_that_was_given_out_again_is_not_taken_for_the_supervisor(
    make_market: MakeMarket, order: Order
) -> None:
    """After a reboot another process may have the pid: it is neither believed nor signalled."""
    market = make_market()
    dseq = lease(market, order)
    answering(market, dseq)
    lodging = Lodging(market.root / dseq)
    record = lodging.record()
    assert record
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: not processes(market, dseq))
    me = Process.current()

    for other in (
        Process(me.pid, me.start - 1, me.boot),
        Process(me.pid, me.start, "another boot"),
    ):
        lodging.write_record(dataclasses.replace(record, supervisor=other))
        assert market.status(dseq).state == "stopped"
    market.close(dseq)

    assert me.alive()


def test_a_port_that_is_taken_is_named(make_market: MakeMarket, order: Order) -> None:
    """A port that a person chose is never exchanged: the reason names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        market = make_market(port=port)
        dseq = lease(market, order)
        until(lambda: market.status(dseq).state == "failed")

    assert f"port {port} is taken by another program" in market.status(dseq).reason


def test_an_update_runs_the_new_manifest_at_the_same_address(make_market: MakeMarket, order: Order) -> None:
    """Updating restarts the service with the new environment and keeps its address."""
    market = make_market()
    dseq = lease(market, order)
    answering(market, dseq)
    url = market.status(dseq).url
    changed = fill(order.sdl.replace("CONTEXT=2048", "CONTEXT=1024"), order.secrets)

    manifest = market.create(changed, reference="r-1").manifest
    market.update(dseq, changed, manifest or "")

    assert answering(market, dseq).json()["env"]["AKASHLLM_CONTEXT"] == "1024"
    assert market.status(dseq).url == url


def test_following_the_log_ends_when_the_service_does(make_market: MakeMarket, order: Order) -> None:
    """A follower sees every line once, and stops when the deployment is closed."""
    market = make_market()
    dseq = lease(market, order)
    answering(market, dseq)

    lines = market.logs(dseq, follow=True)
    seen = [next(lines).text]
    market.close(dseq)
    seen += [line.text for line in lines]

    assert seen[0] == "starting"
    assert seen.count("served /") == 1


def test_unknown_and_malformed_numbers_are_no_deployments(make_market: MakeMarket, home: Home) -> None:
    """A number that is none, or a path, is closed and cannot be leased."""
    market = make_market()

    for word in ("12345", "../locks", "", "x"):
        assert market.status(word).state == "closed"
        market.close(word)
        with pytest.raises(MarketError):
            market.bids(word)


@pytest.mark.parametrize("text", ["{", "[]", '{"reference": "x", "planet": "mars"}', ""])
@pytest.mark.parametrize("name", ["order.json", "run.json", "supervisor.json"])
def test_a_file_of_another_version_hides_nothing_and_can_be_closed(
    make_market: MakeMarket, order: Order, text: str, name: str
) -> None:
    """What cannot be understood is one line; the deployment is still held, others work, `close` ends it."""
    market = make_market()
    sdl = fill(order.sdl, order.secrets)
    manifest = manifest_json(load(sdl)).decode()
    dseq = market.create(sdl, reference="a").dseq
    market.lease(dseq, market.bids(dseq)[0], manifest)
    url = market.status(dseq).url
    (market.root / dseq / name).write_text(text)

    with pytest.raises(MarketError, match="damaged"):
        market.status(dseq)
    assert [held.dseq for held in market.holdings()] == [dseq]
    other = market.create(sdl, reference="b").dseq
    assert other != dseq
    market.close(other)
    market.close(dseq)
    assert market.holdings() == []
    assert url is not None
    assert probe(url).state == "unreachable"
