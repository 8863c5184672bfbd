"""The real process over the real engine, as an attacker meets it: from outside, through HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

KEY = "canary-7d1f0c52be9a"
HEADERS = {"authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Victim:
    """A service that runs as a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    http: httpx.Client

    def health(self) -> dict[str, Any]:
        """What the holder of the key sees."""
        found: dict[str, Any] = self.http.get("/health").json()
        return found

    def used(self) -> int:
        """Slots in use and requests that wait for one."""
        state = self.http.get("/", headers={"accept": "application/json"}).json()
        return int(state["slots"]["used"]) + int(state["queue"]["waiting"])

    def family(self) -> list[psutil.Process]:
        """The processes below it: the engine first."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def ask(self, **body: Any) -> httpx.Response:
        """A chat of one message in OpenAI's dialect."""
        messages = [{"role": "user", "content": "What is 7+8?"}]
        return self.http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages} | body)


@contextmanager
def serving(**settings: str) -> Iterator[Victim]:
    """The service in a process, ready; whatever is left of it is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AKASHLLM_")}
    own = {"PORT": str(port), "API_KEY": KEY, "LOG_LEVEL": "error"} | settings
    process = subprocess.Popen(
        [sys.executable, "-m", "akashllm.server"],
        env=kept | {f"AKASHLLM_{name}": value for name, value in own.items()},
    )
    url = f"http://127.0.0.1:{port}"
    with process, httpx.Client(base_url=url, headers=HEADERS, timeout=100) as client:
        try:
            for _ in range(600):
                assert process.poll() is None
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
            yield Victim(process, url, client)
        finally:
            process.kill()


@pytest.fixture(scope="package")
def victim() -> Iterator[Victim]:
    """One service for all attacks: what one leaves behind, the next would meet."""
    with serving(CONCURRENCY="16") as victim:
        yield victim


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After an attack the engine is the process it was, and no slot is taken."""
    if "victim" not in request.fixturenames:
        yield
        return
    victim: Victim = request.getfixturevalue("victim")
    before = victim.health()["restarts"]
    yield
    assert victim.health()["restarts"] == before
    for _ in range(100):
        if not victim.used():
            return
        time.sleep(0.02)
    raise AssertionError("a slot is still taken")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it needs the engine."""
    for item in items:
        if "redteam" in item.path.parts:
            item.add_marker(pytest.mark.engine)
