"""Several nodes: a head that waits for its workers, and workers that join, stay and come back."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.errors import BadRequest
from akashllm.server.domain import Generation, TextPrompt
from akashllm.server.engines.frames import Load
from akashllm.server.engines.vllm import cluster
from akashllm.server.engines.vllm.cluster import ClusterError
from akashllm.server.engines.vllm.engine import VllmEngine
from akashllm.server.engines.vllm.launch import arguments
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.worker import WorkerNode
from akashllm.server.settings import BadSettings, Settings
from akashllm.server.vllm import build
from tests.vllm.conftest import ROOT, interpreter

KEY = "sk-of-the-deployment-0123456789abcdef"
ENVIRON = {
    "AKASHLLM_ENGINE": "vllm",
    "AKASHLLM_GPUS": "4",
    "AKASHLLM_NODES": "2",
    "AKASHLLM_API_KEY": KEY,
    "AKASHLLM_CHILD_PYTHON": sys.executable,
}
STAND_IN = """
import os, sys, time
with open(os.environ["RAY_LOG"], "a") as log:
    print(os.environ["RAY_AUTH_TOKEN"], os.environ["VLLM_HOST_IP"], *sys.argv[1:], file=log)
if "--block" in sys.argv:
    time.sleep(0.2 if os.environ.get("RAY_SHORT") else 600)
"""


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that stands in for Ray's command; what it was called with is in the file returned."""
    package = tmp_path / "site/ray/scripts"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "scripts.py").write_text(STAND_IN)
    monkeypatch.setenv("RAY_LOG", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """Something that listens where a head would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def calls(ray: Path, count: int) -> None:
    """Wait until Ray's command was called so often."""
    until = time.monotonic() + 30
    while len(ray.read_text().splitlines()) < count:
        assert time.monotonic() < until
        time.sleep(0.01)


def node(ray: Path, port: int) -> WorkerNode:
    """A worker whose Ray is the stand-in."""
    site = str(ray.parent / "site")
    return WorkerNode(f"127.0.0.1:{port}", name="big", gpus=4, python=sys.executable, path=site, key=KEY)


def test_a_worker_joins_with_its_gpus_and_the_token(ray: Path, head: socket.socket) -> None:
    """Ray's node is started against the head, with the GPUs and the token made of the key, never the key."""

    async def play() -> None:
        worker = node(ray, head.getsockname()[1])
        seen: list[str] = []
        worker.watch(lambda state, sentence, percent: seen.append(state))
        await worker.load()
        assert worker.state == "ready"
        assert seen == ["loading", "ready"]
        await asyncio.to_thread(calls, ray, 1)
        await worker.close()

    asyncio.run(play())
    called = ray.read_text()
    assert f"--address=127.0.0.1:{head.getsockname()[1]}" in called
    assert "--num-gpus=4" in called
    assert called.startswith(cluster.token(KEY))
    assert KEY not in called


def test_a_worker_waits_for_its_head(ray: Path) -> None:
    """Without a head nothing is started, and the worker can be closed while it waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def play() -> None:
        worker = node(ray, port)
        loading = asyncio.create_task(worker.load())
        await asyncio.sleep(0)
        assert worker.state == "loading"
        await worker.close()
        with pytest.raises(asyncio.CancelledError):
            await loading

    asyncio.run(play())
    assert ray.read_text() == ""


def test_a_worker_comes_back(ray: Path, head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Ray ends, as with a head that starts again, the worker joins again."""
    monkeypatch.setenv("RAY_SHORT", "1")
    monkeypatch.setattr("akashllm.server.engines.vllm.worker._POLL", 0.01)

    async def play() -> None:
        worker = node(ray, head.getsockname()[1])
        await worker.load()
        await asyncio.to_thread(calls, ray, 2)
        await worker.close()

    asyncio.run(play())


def test_a_worker_answers_nobody(ray: Path) -> None:
    """Requests to a worker are refused with where to go."""
    worker = node(ray, 1)
    with pytest.raises(BadRequest, match="only lends its GPUs"):
        worker.generate(Generation(id="a", model="big", prompt=TextPrompt(text="x")))


def test_a_machine_that_does_not_know_its_own_name_is_its_only_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is loopback, not a traceback."""
    monkeypatch.setattr(socket, "gethostname", lambda: "nobody-has-written-this-down.invalid")
    assert cluster.own_address() == "127.0.0.1"


def test_settings_make_a_worker_or_a_head(tmp_path: Path) -> None:
    """The same image is either, by one variable."""
    assert isinstance(build(Settings.from_env(ENVIRON), tmp_path), VllmEngine)
    assert isinstance(build(Settings.from_env({**ENVIRON, "AKASHLLM_HEAD": "llm:6379"}), tmp_path), WorkerNode)


@pytest.mark.parametrize(
    "wrong", [{"AKASHLLM_HEAD": "llm"}, {"AKASHLLM_HEAD": "llm:6379", "AKASHLLM_NODES": "1"}]
)
def test_a_worker_of_nothing_is_refused(wrong: dict[str, str]) -> None:
    """A head that is no address, or one node with a head, is a fault of the settings."""
    with pytest.raises(BadSettings, match="AKASHLLM_HEAD"):
        Settings.from_env({**ENVIRON, **wrong})


def test_nodes_are_stages_and_gpus_are_shards() -> None:
    """VLLM is told: layers over nodes with Ray, each layer over a node's GPUs."""
    order = Load(model="/data/m", name="big")
    given = arguments(order, Options(gpus=4, nodes=2), ())
    assert given["tensor_parallel_size"] == 4
    assert given["pipeline_parallel_size"] == 2
    assert given["distributed_executor_backend"] == "ray"


def test_too_few_nodes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head does not wait for ever: the reason says how many came."""
    monkeypatch.setattr(cluster, "_POLL", 0.0)
    said: list[str] = []
    with pytest.raises(ClusterError, match="only 1 of 3 nodes"):
        cluster._wait(lambda: 1, 3, said.append, patience=0.0)
    assert said == ["1 of 3 nodes are there"]


CLUSTER = """
import os, socket, subprocess, sys, threading
from akashllm.server.engines.vllm import cluster
cluster.own_address = lambda: "127.0.0.1"
os.environ.update(cluster.environment("key"), VLLM_HOST_IP="127.0.0.1")
port = int(sys.argv[1])
def work():
    while not cluster.reachable("127.0.0.1", port):
        pass
    command = cluster.worker_command(sys.executable, f"127.0.0.1:{port}", "127.0.0.1", 0)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
workers = []
thread = threading.Thread(target=lambda: workers.append(work()))
thread.start()
try:
    cluster.gather(2, 0, port=port, say=lambda sentence: print(sentence, flush=True), patience=120)
    print("together", flush=True)
    cluster.gather(2, 0, port=port, say=print, patience=60)
    print("again", flush=True)
finally:
    thread.join()
    workers[0].terminate()
    workers[0].wait(60)
"""


@pytest.mark.vllm
def test_real_nodes_come_together() -> None:
    """A real Ray head and a real worker find each other with the token; a head that runs already is used."""
    python = interpreter()
    assert python is not None
    if subprocess.run([python, "-c", "import ray"], capture_output=True, check=False).returncode:
        pytest.skip("Ray is not installed beside vLLM (scripts/vllm-cpu does that)")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] % 1000 + 6400
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [python, "-c", textwrap.dedent(CLUSTER), str(port)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines()[-2:] == ["together", "again"]
        stranger = subprocess.run(
            [
                python,
                "-c",
                f"import ray; ray.init(address='127.0.0.1:{port}', log_to_driver=False); ray.nodes()",
            ],
            env={**environ, **cluster.environment("another key")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert stranger.returncode != 0
    finally:
        subprocess.run(
            [python, "-m", "ray.scripts.scripts", "stop", "--force"], capture_output=True, check=False
        )
