"""vLLM's processes: what dies, what comes back, and that nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.vllm import files, real
from tests.vllm.conftest import ROOT, interpreter

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service over vLLM as an image runs it, told everything by its environment."""
    made = files.make(tmp_path / "tiny")
    python = interpreter()
    assert python is not None
    log = tmp_path / "log"
    environment = (
        os.environ
        | real.ENVIRONMENT
        | {
            "AKASHLLM_ENGINE": "vllm",
            "AKASHLLM_MODEL": str(made.folder),
            "AKASHLLM_MODEL_NAME": "tiny",
            "AKASHLLM_PORT": "0",
            "AKASHLLM_DTYPE": "float32",
            "AKASHLLM_CHILD_PYTHON": str(python),
            "AKASHLLM_CHILD_PATH": str(ROOT),
            "AKASHLLM_VLLM_OPTIONS": json.dumps(real.SMALL),
        }
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "akashllm.server"], env=environment, stdout=out, stderr=out
        )
    try:
        until(lambda: b"listening on" in log.read_bytes())
        line = next(line for line in log.read_text().splitlines() if "listening on" in line)
        yield process, json.loads(line)["message"].removeprefix("listening on ")
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    """Wait for something only another process can bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def below(pid: int) -> list[psutil.Process]:
    """Everything a process has started, and what that has."""
    return psutil.Process(pid).children(recursive=True)


def test_its_core_may_die_and_nothing_outlives_the_service(
    service: tuple[subprocess.Popen[bytes], str],
) -> None:
    """A stream ends in words when vLLM's core is killed, a new one answers; nothing outlives the service."""
    process, url = service
    until(lambda: httpx.get(f"{url}/health").json()["status"] == "ready")
    body = {"model": "tiny", "prompt": "Once", "stream": True, "max_tokens": 1900, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data:"))
        assert "error" not in next(lines)
        core = next(one for one in below(process.pid) if "EngineCore" in one.name())
        core.send_signal(signal.SIGKILL)
        assert any("the engine stopped" in line for line in lines)
    until(lambda: httpx.get(f"{url}/health").json()["status"] == "ready")
    answer = httpx.post(
        f"{url}/api/generate", json={"model": "tiny", "prompt": "Hello!", "stream": False}, timeout=60
    )
    assert answer.json()["response"]

    started = below(process.pid)
    assert len(started) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started), 30)
