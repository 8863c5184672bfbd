"""The workflow for GitHub Actions: parsed as GitHub would, its steps run against the testing market."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akashllm.sdl import load
from akashllm.state import Home
from akashllm.testing.market import Fault, MarketServer

from .conftest import CANARY
from .test_cli import home, server  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "github-actions.yml"
KEY = "sk-actions-0123456789abcdef"
SECRETS = {"AKASH_CONSOLE_API_KEY": CANARY, "AKASHLLM_API_KEY": KEY}
IMAGE = re.compile(r"ghcr\.io/you/akashllm:\S+@sha256:0{64}")
PULLABLE = f"127.0.0.1:9/me/akashllm:llamacpp-0.1.0-cpu@sha256:{'1' * 64}"

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Runner:
    """Runs the shell steps of a job as a runner does: bash -e, environments in layers, outputs from a file."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        # Nobody bids later here.
        text = IMAGE.sub(PULLABLE, FILE.read_text()).replace("--max-hours 2", "--max-hours 2 --bid-wait 0")
        self.workflow: dict[str, Any] = YAML(typ="safe").load(text)
        self.folder, self.environ = folder, environ
        self.outputs: dict[str, str] = {}
        self.said = ""

    def job(self, name: str) -> list[tuple[str, int]]:
        """The steps that ran, with their exit codes; after a failure only those with `if: always()`."""
        job = self.workflow["jobs"][name]
        ran: list[tuple[str, int]] = []
        for step in job["steps"]:
            failed = any(code for _, code in ran)
            if (
                "run" not in step
                or step["name"] == "Install"
                or (failed and "always()" not in step.get("if", ""))
            ):
                continue
            ran.append((step["name"], self._run(step, {**self.workflow["env"], **job.get("env", {})})))
        return ran

    def _run(self, step: dict[str, Any], env: dict[str, str]) -> int:
        output = self.folder / "output"
        output.write_text("")
        given = {key: self._filled(value) for key, value in env.items()}
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.folder / "summary")}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self._filled(step["run"])],
            cwd=self.folder,
            env={**self.environ, **given, **files},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        self.said += done.stdout + done.stderr
        for line in output.read_text().splitlines():
            key, _, value = line.partition("=")
            self.outputs[f"steps.{step['id']}.outputs.{key}"] = value
        return done.returncode

    def _filled(self, text: str) -> str:
        known = {**self.outputs, **{f"secrets.{name}": value for name, value in SECRETS.items()}}
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda match: known[match[1]], text)


@pytest.fixture
def runner(tmp_path: Path, home: Home, server: MarketServer, monkeypatch: pytest.MonkeyPatch) -> Runner:  # noqa: F811
    """A repository with a committed SDL, and a runner for it."""
    server.world.providers = [one for one in server.world.providers if one.behaviour == "runs"]
    folder = tmp_path / "repository"
    folder.mkdir()
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AKASHLLM_HOME": str(home.root),
        "AKASH_CONSOLE_API_URL": server.url,
    }
    runner = Runner(folder, environ)
    command = f"akashllm render {runner.workflow['env']['RENDER']}"
    subprocess.run(
        ["bash", "-ec", command], cwd=folder, env={**os.environ, **environ}, check=True, capture_output=True
    )
    return runner


def test_the_workflow_checks_deploys_judges_and_closes(runner: Runner, server: MarketServer) -> None:  # noqa: F811
    """Every step succeeds; what was ordered is the committed file; no key is in the log; nothing stays."""
    committed = (runner.folder / "sdl/llamacpp-tiny.yaml").read_text()
    assert PULLABLE in committed

    assert runner.job("check") == [("Judge the SDL", 0), ("Look for drift", 0)]
    ran = runner.job("deploy")

    assert ran == [
        ("Deploy", 0),
        ("Smoke-test", 0),
        ("Say what it costs", 0),
        ("Close", 0),
        ("Leave nothing behind", 0),
    ], runner.said
    (deployed,) = server.world.deployments.values()
    assert load(deployed.sdl).services["llm"].image == PULLABLE
    assert deployed.sdl.count("\n") == committed.count("\n")
    assert deployed.limit == 2
    assert "<testsuite" in (runner.folder / "smoke.xml").read_text()
    assert "$/HOUR" in (runner.folder / "summary").read_text()
    assert CANARY not in runner.said
    assert not server.world.open()
    assert server.world.balance == 100


def test_drift_stops_it_before_anything_is_ordered(runner: Runner, server: MarketServer) -> None:  # noqa: F811
    """A committed file that was edited by hand fails the job that deploying waits for."""
    path = runner.folder / "sdl/llamacpp-tiny.yaml"
    path.write_text(path.read_text().replace("units: 2", "units: 3"))

    assert runner.job("check") == [("Judge the SDL", 0), ("Look for drift", 1)]
    assert runner.workflow["jobs"]["deploy"]["needs"] == "check"
    assert server.changes() == []


def test_what_fails_is_closed_all_the_same(runner: Runner, server: MarketServer) -> None:  # noqa: F811
    """A lost reply after the order: the job fails, the last steps still run, and no money is held."""
    server.faults.add(Fault("POST /v1/leases", "402"))
    ran = dict(runner.job("deploy"))

    assert ran["Deploy"] != 0
    assert "Smoke-test" not in ran
    assert ran["Leave nothing behind"] == 0
    assert not server.world.open()


def test_the_workflow_is_what_its_first_lines_say(runner: Runner) -> None:
    """Least rights, one at a time, limits in minutes, every action and package with its version."""
    workflow = runner.workflow
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.search(r"@v\d+$", step["uses"]) for step in steps if "uses" in step)
    assert all("akashllm==" in step["run"] for step in steps if step.get("name") == "Install")
    assert not [step for step in steps if "secrets." in step.get("run", "")]
