"""The process: how it starts, how it refuses to, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from akashllm.errors import UsageError
from akashllm.models import TINY
from akashllm.server.run import build_engine, listen
from akashllm.server.settings import Settings

KEY = "canary-4f1d0b7e9c2a"

SCRIPTED = """
import asyncio, sys
from akashllm.server import run
from akashllm.testing.engine import Reply, ScriptedEngine

class Loud(ScriptedEngine):
    async def close(self):
        if not self.closed:
            print("closed", flush=True)
        await super().close()

run.build_engine = lambda settings: Loud({"wait": Reply("one two", gate=asyncio.Event(), gate_after=1)})
sys.exit(run.main())
"""


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with other settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AKASHLLM_")}
    return kept | {f"AKASHLLM_{name}": value for name, value in settings.items()}


def free_port() -> int:
    """A port nobody has at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Return when `url` answers 200; fail if the process ends first."""
    for _ in range(400):
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} never answered")


@pytest.fixture
def scripted() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The real process over a scripted engine, ready."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPTED],
        env=environment(PORT=str(port), API_KEY=KEY, DRAIN_TIMEOUT="30"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield process, port
        finally:
            process.kill()


def hold_a_stream(port: int) -> socket.socket:
    """A connection on which an answer has begun that will not end by itself."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    body = b'{"model":"tiny","prompt":"wait"}'
    head = f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    received = b""
    while b'"response":"one"' not in received:
        received += connection.recv(4096)
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(scripted: tuple[subprocess.Popen[str], int], number: signal.Signals) -> None:
    """A signal closes the engine and ends the process with 0."""
    process, _ = scripted
    process.send_signal(number)
    out, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert out == "closed\n"
    assert KEY not in err
    assert "Traceback" not in err


def test_a_second_signal_ends_it_at_once(scripted: tuple[subprocess.Popen[str], int]) -> None:
    """The first signal waits for a request that runs, the second does not; the engine is closed anyway."""
    process, port = scripted
    with hold_a_stream(port):
        process.send_signal(signal.SIGTERM)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                break
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=15)
    assert process.returncode == 0
    assert out == "closed\n"


def test_the_key_shows_in_no_command_line(scripted: tuple[subprocess.Popen[str], int]) -> None:
    """The key comes by environment or file, never as an argument."""
    process, _ = scripted
    assert KEY not in " ".join(psutil.Process(process.pid).cmdline())


def test_faults_are_listed_and_end_it() -> None:
    """Settings that are not usable end the process with 2 and the whole list on stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "akashllm.server"],
        env=environment(HOST="0.0.0.0", PORT="x", CONCURRENCY="-3", ADMIN_KEY="changeme"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    for name in ("PORT", "CONCURRENCY", "ADMIN_KEY", "API_KEY"):
        assert f"AKASHLLM_{name}:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_said_plainly() -> None:
    """An address in use, or not of this machine, is one sentence with what to do."""
    with listen("127.0.0.1", 0) as taken:
        with pytest.raises(UsageError, match="in use") as caught:
            listen("127.0.0.1", taken.getsockname()[1])
        assert "AKASHLLM_PORT" in caught.value.hint
    with pytest.raises(UsageError, match="cannot listen"):
        listen("192.0.2.1", 0)


needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")


@needs_llama
def test_a_missing_model_is_said_plainly(tmp_path: Path) -> None:
    """A path without a file ends the start instead of the first request."""
    with pytest.raises(UsageError, match="no model file"):
        build_engine(Settings(model=str(tmp_path / "none.gguf")))


@needs_llama
def test_the_engine_is_built_as_the_settings_say() -> None:
    """The llama.cpp engine gets the file and the name; nothing is loaded yet."""
    engine = build_engine(Settings())
    assert engine.name == "llamacpp"
    assert engine.info.name
    assert TINY.is_file()
    assert engine.state != "ready"
