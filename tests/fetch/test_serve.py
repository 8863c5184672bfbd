"""From a plan to a service that fetches its weights, in a process as a container runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests

from akashllm import smoke
from akashllm.catalog.remote import Hub
from akashllm.errors import UnknownModel
from akashllm.market.probe import Health, probe
from akashllm.models import TINY
from akashllm.plan import DeployRequest, Plan
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import load
from akashllm.testing.files import Fault
from akashllm.testing.hub import COMMIT, HubServer, running_hub

KEY = "a-key-for-the-tests-of-the-fetching-service"
TOKEN = "hf_a-token-that-nobody-may-see"
MIB = 1 << 20


@dataclass
class Service:
    """A service in a process of its own, and every line it wrote."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def health(self) -> Health:
        """What the command line sees of it."""
        return probe(self.url, KEY)

    def until(self, *states: str) -> Health:
        """Wait for a state."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = self.health()
            if found.state in states:
                return found
            time.sleep(0.02)
        raise AssertionError(self.lines)


@contextmanager
def running(environment: dict[str, str]) -> Iterator[Service]:
    """The service with these variables, and no others of ours."""
    command = [sys.executable, "-m", "akashllm.server"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AKASHLLM_", "HF_"))}
    with subprocess.Popen(
        command, env=inherited | environment, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        service = Service(json.loads(first)["message"].removeprefix("listening on "), process, [first])
        rest = threading.Thread(target=lambda: service.lines.extend(process.stderr or ()))
        rest.start()
        try:
            yield service
        finally:
            process.terminate()
            process.wait(30)
            rest.join(30)


def planned(hub: HubServer, model: str = "hf.co/o/tiny:Q8_0") -> Plan:
    """The plan for a model of the hub."""
    with Hub(hub=hub.url, token=TOKEN) as reader:
        return make_plan(DeployRequest(model=model, cpu_only=True), lookup=reader.describe)


def environment(plan: Plan, hub: HubServer, data: Path) -> dict[str, str]:
    """What the container of the plan's SDL gets, with the secrets filled in, on this machine's addresses."""
    service = load(render_sdl(plan)).services["llm"]
    secrets = {"AKASHLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}
    found = dict(line.split("=", 1) for line in service.env)
    filled = {name: secrets.get(name, value) for name, value in found.items()}
    return filled | {
        "AKASHLLM_HOST": "127.0.0.1",
        "AKASHLLM_PORT": "0",
        "AKASHLLM_DATA": str(data),
        "AKASHLLM_DOWNLOAD_TIMEOUT": "0.3",
        "HF_ENDPOINT": hub.url,
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with the bundled model as somebody's repository."""
    with running_hub() as found:
        found.put("o/tiny", {"tiny-Q8_0.gguf": TINY.read_bytes(), "README.md": b"a model"})
        yield found


@pytest.mark.engine
def test_from_a_plan_to_verdicts(hub: HubServer, tmp_path: Path) -> None:
    """The SDL's own variables fetch the model over a stalling connection, and every promise holds."""
    plan = planned(hub)
    assert plan.env == tuple(sorted(plan.env))
    hub.cdn.seen.clear()
    hub.cdn.faults = [None, Fault(stall=MIB), Fault(cut=MIB // 2)]
    told: list[Health] = []

    with running(environment(plan, hub, tmp_path) | {"HF_TOKEN": TOKEN}) as service:
        while (health := service.health()).state != "ready":
            told.append(health)
            assert health.state in {"starting", "loading"}, service.lines
            time.sleep(0.01)
        report = smoke.run(service.url, api_key=KEY, model=dict(plan.env)["AKASHLLM_MODEL_NAME"])
        children = psutil.Process(service.process.pid).children(recursive=True)
        assert children
        assert not any(TOKEN in child.environ().values() for child in children)
        listed = requests.get(f"{service.url}/api/tags", headers={"Authorization": f"Bearer {KEY}"}, timeout=10)

    assert [result for result in report.results if result.verdict == "broken"] == []
    assert any(health.reason.startswith("downloading tiny-Q8_0.gguf: ") and health.percent for health in told)
    assert len(hub.cdn.seen) == 4
    assert listed.json()["models"][0]["size"] == TINY.stat().st_size
    assert not any(TOKEN in line for line in service.lines)

    hub.front.judge = lambda _: Fault(status=503)
    hub.cdn.seen.clear()
    with running(environment(plan, hub, tmp_path)) as service:
        service.until("ready")

    assert hub.cdn.seen == []


@pytest.mark.parametrize(
    ("model", "env", "secrets"),
    [
        ("hf.co/o/tiny", f"hf.co/o/tiny@{COMMIT}/tiny-Q8_0.gguf", ("AKASHLLM_API_KEY",)),
        ("hf.co/o/tiny@main:Q8_0", f"hf.co/o/tiny@{COMMIT}/tiny-Q8_0.gguf", ("AKASHLLM_API_KEY",)),
        ("hf.co/o/tiny/tiny-Q8_0.gguf", f"hf.co/o/tiny@{COMMIT}/tiny-Q8_0.gguf", ("AKASHLLM_API_KEY",)),
        ("hf.co/o/gated", f"hf.co/o/gated@{COMMIT}/g-Q4_K_M.gguf", ("AKASHLLM_API_KEY", "HF_TOKEN")),
    ],
)
def test_a_plan_pins_what_it_read(hub: HubServer, model: str, env: str, secrets: tuple[str, ...]) -> None:
    """However a repository is named, the plan holds commit and file, and asks for a token at a gate."""
    hub.put("o/gated", {"g-Q4_K_M.gguf": TINY.read_bytes()}, tokens=frozenset({TOKEN}), gated=True)

    plan = planned(hub, model)

    assert (dict(plan.env)["AKASHLLM_MODEL"], plan.secrets) == (env, secrets)


@pytest.mark.parametrize("model", ["hf.co/o/tiny/other.gguf", "hf.co/o/tiny@nowhere"])
def test_a_plan_of_what_is_not_there(hub: HubServer, model: str) -> None:
    """A file or a revision that the repository does not have is refused while planning."""
    with pytest.raises(UnknownModel):
        planned(hub, model)


@pytest.mark.engine
def test_a_gated_model_is_a_reason_with_the_service_up(hub: HubServer, tmp_path: Path) -> None:
    """A licence that nobody accepted is said by /health while the port answers, and the token is nowhere."""
    plan = planned(hub)
    hub.put(
        "o/tiny",
        {"tiny-Q8_0.gguf": TINY.read_bytes()},
        tokens=frozenset({"somebody-else"}),
        gated=True,
    )
    variables = environment(plan, hub, tmp_path) | {"HF_TOKEN": TOKEN}

    with running(variables) as service:
        health = service.until("failed")
        overview = requests.get(service.url, headers={"Accept": "application/json"}, timeout=10).json()
        alive = requests.get(f"{service.url}/livez", timeout=10).status_code

    assert "the account of HF_TOKEN may not read it; accept its licence" in health.reason
    assert health.ordered
    assert overview["status"] == "failed"
    assert overview["reason"] == health.reason
    assert alive == 200
    assert not any(TOKEN in line for line in service.lines)


@pytest.mark.engine
def test_deploying_a_gated_model_on_this_machine(hub: HubServer, tmp_path: Path) -> None:
    """From a repository's name and a token to a verified service; the token is in private files meanwhile."""
    hub.put("o/gated", {"g-Q8_0.gguf": TINY.read_bytes()}, tokens=frozenset({TOKEN}), gated=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AKASHLLM_", "HF_"))}
    places = {"AKASHLLM_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    variables = inherited | places | {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}

    def akashllm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "akashllm", *words]
        return subprocess.run(command, env=variables, text=True, capture_output=True, timeout=90, check=False)

    deployed = akashllm("deploy", "--market", "local", "--model", "hf.co/o/gated:Q8_0", "--json")
    try:
        document = json.loads(deployed.stdout)
        holders = [
            path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
        ]
        modes = {path.stat().st_mode & 0o777 for path in holders}
        with_token = [
            process.pid
            for process in psutil.process_iter()
            if any(value == TOKEN for value in _environ(process).values())
        ]
    finally:
        closed = akashllm("close", "gated-llamacpp", "--yes")

    assert deployed.returncode == 0, deployed.stderr
    assert document["url"]
    assert {path.name for path in holders} == {"hf-token", "manifest.json"}
    assert modes == {0o600}
    assert with_token == []
    assert closed.returncode == 0, closed.stderr
    assert not any(path.exists() for path in holders)


def _environ(process: psutil.Process) -> dict[str, str]:
    """What a process was started with, if one may know."""
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}
