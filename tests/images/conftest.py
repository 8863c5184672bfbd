"""A real registry and a real Docker engine, each started once if a test asks for it."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import ImageNotFound

from akashllm.images import DockerEngine

ROOT = Path(__file__).parents[2]
BASE = "debian:bookworm-slim"
BASE_GLIBC = (2, 36)
CANARY = "hf_canary0123456789abcdef"
"""A secret in the environment of every build: it must not be found in what comes out."""


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of Debian's docker-registry."""
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("registry")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ROOT / "scripts/docker-registry", address, folder], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 180
        while True:
            try:
                if requests.get(f"http://{address}/v2/", timeout=5).ok:
                    break
            except requests.RequestException:
                said = (folder / "log").read_text()
                assert process.poll() is None, f"the registry stopped: {said}"
                assert time.monotonic() < until, f"the registry did not come up: {said}"
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def docker_address() -> Iterator[str]:
    """DOCKER_HOST of a real engine. If none can be had, that is a failure: AKASHLLM_SKIP_DOCKER=1 allows it."""
    if os.environ.get("AKASHLLM_SKIP_DOCKER") == "1":
        pytest.skip("AKASHLLM_SKIP_DOCKER=1: nothing of Docker is tested")
    script = ROOT / "scripts/docker-engine"
    started = subprocess.run([script], capture_output=True, text=True, timeout=600, check=False)
    assert started.returncode == 0, (
        f"no Docker engine can be started here (AKASHLLM_SKIP_DOCKER=1 leaves it out):\n{started.stderr}"
    )
    yield started.stdout.strip()
    if "docker: started" in started.stderr:
        with DockerEngine.connect({"DOCKER_HOST": started.stdout.strip()}) as engine:
            # Earlier versions of the image: the cache would grow with every change of the code.
            engine.api.prune_images(filters={"dangling": True, "until": "96h"})
        subprocess.run([script, "stop"], capture_output=True, timeout=60, check=True)


@pytest.fixture(scope="session")
def docker_engine(docker_address: str) -> Iterator[DockerEngine]:
    """The engine, with the base image that the Dockerfile names, made with debootstrap where it is missing."""
    with DockerEngine.connect({"DOCKER_HOST": docker_address}) as engine:
        try:
            engine.api.inspect_image(BASE)
        except ImageNotFound:
            made = subprocess.run(
                [ROOT / "scripts/docker-base"], stdout=subprocess.PIPE, text=True, timeout=900, check=True
            )
            name, tag = BASE.split(":")
            engine.api.import_image_from_file(
                made.stdout.strip(), repository=name, tag=tag, changes=['CMD ["bash"]']
            )
        yield engine


@dataclass(frozen=True)
class BuiltImage:
    """What `akashllm build --push --json` said, where it remembers it, and the command without the push."""

    document: dict[str, Any]
    home: Path
    command: tuple[str, ...] = ()

    @property
    def pinned(self) -> str:
        """What an SDL would say."""
        return str(self.document["pushed"]["pinned"])


def run_build(command: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """The one document of `akashllm build --json`; no secret of the environment is on either stream."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert CANARY not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="session")
def built(
    docker_address: str, docker_engine: DockerEngine, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> BuiltImage:
    """The llama.cpp image without a GPU, built and pushed by the command line.

    The engine's wheel is the one this machine has compiled already, which spares minutes;
    AKASHLLM_COMPILE_IN_IMAGE=1 compiles it in the image instead, as a release does.
    """
    home = tmp_path_factory.mktemp("home") / "state"
    environ = os.environ | {
        "DOCKER_HOST": docker_address,
        "AKASHLLM_HOME": str(home),
        "HF_TOKEN": CANARY,
        "AKASHLLM_API_KEY": CANARY,
    }
    command = [sys.executable, "-m", "akashllm", "build", "--cpu", "--json", "--network", "host"]
    glibc = tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2])
    if glibc <= BASE_GLIBC and os.environ.get("AKASHLLM_COMPILE_IN_IMAGE") != "1":
        wheel = subprocess.run(
            [ROOT / "scripts/llama-wheel", sys.executable],
            stdout=subprocess.PIPE,
            text=True,
            timeout=1200,
            check=True,
        )
        command += ["--wheelhouse", str(Path(wheel.stdout.strip().splitlines()[-1]).parent)]
    document = run_build([*command, "--push", "--repository", f"{registry}/me/akashllm"], environ)
    return BuiltImage(document, home, tuple(command))
