"""From an installed wheel to a URL: the pushed image, run by a provider's Docker engine, and by ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from akashllm.images import DockerEngine
from akashllm.state import Home
from akashllm.testing.market import ContainerRunner, MarketServer, Provider, Shape, World
from tests.cli.conftest import Run, caller
from tests.images.conftest import ROOT, BuiltImage

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2400)]

CONSOLE_KEY = "ac.sk.test." + "c0ffee42" * 8

Akashllm = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that holds nothing but the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    wheel = str(next(folder.glob("*.whl")))
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "venv/bin/akashllm"


@pytest.fixture
def server(tmp_path: Path, docker_address: str) -> Iterator[MarketServer]:
    """A market with one provider, which runs manifests in containers."""
    runner = ContainerRunner(tmp_path / "provider", environ={"DOCKER_HOST": docker_address})
    one = Provider(address="akash1docker", price="6", runner=runner)
    with MarketServer(World(providers=[one], shape=Shape.newer()), key=CONSOLE_KEY) as server:
        yield server
    assert server.broken == []


def ours(engine: DockerEngine) -> list[dict[str, Any]]:
    """Containers of deployments."""
    found: list[dict[str, Any]] = engine.api.containers(all=True, filters={"label": "akashllm.dseq"})
    return [engine.api.inspect_container(one["Id"]) for one in found]


def forget(engine: DockerEngine, image: str) -> None:
    """Take every name of an image away, so that it has to be pulled; layers stay as the builder's cache."""
    found = engine.image(image)
    for name in (*found.tags, *found.digests):
        if engine.has(name):
            engine.api.remove_image(name, noprune=True, force=True)


def test_deploy_from_the_wheel_ends_in_a_verified_url(
    installed: Path, server: MarketServer, docker_engine: DockerEngine, built: BuiltImage, tmp_path: Path
) -> None:
    """Order, bid, lease, a provider that pulls the pinned image, a green smoke test; `close` leaves nothing."""
    home = Home(tmp_path / "home").prepare()
    shutil.copy(built.home / "images.json", home.root / "images.json")
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AKASHLLM_HOME": str(home.root),
        "AKASH_CONSOLE_API_URL": server.url,
        "AKASH_CONSOLE_API_KEY": CONSOLE_KEY,
    }

    def akashllm(*argv: str) -> dict[str, Any]:
        done = subprocess.run(
            [installed, *argv, "--json"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environ,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert CONSOLE_KEY not in done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    if docker_engine.has(built.document["id"]):
        forget(docker_engine, built.document["id"])
    assert not docker_engine.has(built.pinned)
    made = akashllm("deploy", "--market", "console", "--bid-wait", "0", "--yes")

    assert (made["state"], made["provider"]) == ("ready", "akash1docker")
    assert made["smoke"]["ok"], made["smoke"]
    assert made["smoke"]["pass"] > 20
    assert built.pinned in Path(made["sdl"]).read_text()
    (container,) = ours(docker_engine)
    assert container["Image"] == built.document["id"]
    assert container["Config"]["Image"] == built.pinned
    assert [one["state"] for one in akashllm("list")["deployments"]] == ["ready"]
    spent = akashllm("close", made["name"], "--yes")
    assert spent["state"] == "closed"
    assert server.world.balance == 100
    assert not server.world.open()
    assert not ours(docker_engine)


@pytest.fixture
def here(
    docker_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command with a home of its own."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", docker_address)
    return caller(capsys)


@pytest.fixture
def container(here: Run, built: BuiltImage, docker_engine: DockerEngine) -> Iterator[dict[str, Any]]:
    """What `deploy --market local --container` has started."""
    said = here("deploy", "--market", "local", "--container", "--image", built.pinned, "--json")
    assert said.code == 0, said.err
    yield said.document
    for one in ours(docker_engine):
        docker_engine.api.remove_container(one["Id"], force=True, v=True)


def test_this_machine_runs_the_manifest_in_a_container(
    here: Run, container: dict[str, Any], docker_engine: DockerEngine
) -> None:
    """The smoke test is green; not root, read-only, with the SDL's memory; every later command finds it."""
    assert container["smoke"]["ok"], container["smoke"]
    (found,) = ours(docker_engine)
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], found["Config"]["User"]) == (
        True,
        ["ALL"],
        "10001:10001",
    )
    assert host["Memory"] == 2 << 30
    assert container["api_key"] not in json.dumps({**found, "Config": ""})

    (listed,) = here("list", "--json").document["deployments"]
    assert (listed["state"], listed["market"], listed["dseq"]) == ("ready", "docker", container["dseq"])
    assert "/v1/chat/completions" in here("logs", container["name"]).out
    again = here("deploy", "--market", "local", "--container", "--image", found["Config"]["Image"], "--json")
    assert again.document["already_running"]

    assert here("close", container["name"], "--yes").code == 0
    assert ours(docker_engine) == []
    assert here("list", "--json").document["deployments"] == []
    assert "/v1/chat/completions" in here("logs", container["name"]).out


def test_what_can_never_run_says_why_and_is_removed(
    here: Run, built: BuiltImage, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    """A service that dies at every start: its last words are the reason, its log stays, nothing else does."""
    sdl = here("deploy", "--market", "docker", "--image", built.pinned, "--dry-run", "--json").document["sdl"]
    file = tmp_path / "broken.yaml"
    file.write_text(sdl.replace("AKASHLLM_CONTEXT=2048", "AKASHLLM_CONTEXT=many"))
    said = here("deploy", "--market", "docker", "--sdl", str(file), "--json")

    assert said.code == 5
    assert "AKASHLLM_CONTEXT" in said.error["message"]
    assert ours(docker_engine) == []
    assert "AKASHLLM_CONTEXT" in here("logs", "broken").out
    assert here("close", "broken", "--yes").code == 0


def test_a_service_that_dies_is_started_again_and_counted(
    here: Run, container: dict[str, Any], docker_engine: DockerEngine
) -> None:
    """After a crash the same address answers again, and the restart shows."""
    (found,) = ours(docker_engine)
    os.kill(found["State"]["Pid"], 9)
    until = time.monotonic() + 60
    while True:
        (listed,) = here("list", "--json").document["deployments"]
        if (listed["state"], listed["restarts"]) == ("ready", 1):
            break
        assert time.monotonic() < until, listed
        time.sleep(0.1)

    assert listed["url"] == container["url"]


def test_what_was_stopped_by_hand_starts_again_with_the_same_key(
    here: Run, container: dict[str, Any], docker_engine: DockerEngine
) -> None:
    """`docker stop` shows as stopped; the same deploy brings the same URL and key back."""
    (found,) = ours(docker_engine)
    docker_engine.api.stop(found["Id"])
    assert [one["state"] for one in here("list", "--json").document["deployments"]] == ["stopped"]

    said = here(*("deploy", "--market", "local", "--container", "--image", found["Config"]["Image"], "--json"))
    assert (said.code, said.document["already_running"]) == (0, False)
    assert (said.document["url"], said.document["api_key"]) == (container["url"], container["api_key"])


def test_a_container_whose_order_is_lost_is_still_shown_and_closed(
    here: Run, container: dict[str, Any], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    """The engine's labels are enough: nothing runs that `list` does not show."""
    home = Home(tmp_path / "home")
    shutil.rmtree(home.containers / container["dseq"])
    home.database.rename(tmp_path / "state.db")

    (listed,) = here("list", "--json").document["deployments"]
    assert (listed["state"], listed["dseq"]) == ("unrecorded", container["dseq"])
    assert here("close", container["dseq"], "--yes").code == 0
    assert ours(docker_engine) == []
