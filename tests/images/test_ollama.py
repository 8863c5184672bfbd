"""The Ollama images, from a stand-in for Ollama's own: built, run and judged.

What stands for Ollama's program is our own service over llama.cpp, which speaks the same API. It lies where the
real image has libraries for GPUs, and once more beside them, so that each of the two images keeps one copy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from akashllm.images import Context, DockerEngine
from akashllm.smoke import run as judge
from tests.images.conftest import BuiltImage, run_build
from tests.images.test_docker import KEY, UID, running

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2400)]

STAND_IN = "akashllm-stand-in/ollama:test"
PROGRAM = b"""#!/bin/sh
for site in /usr/lib/ollama/cuda_v12 /usr/lib/ollama/runners; do
    if [ -d "$site" ]; then break; fi
done
PYTHONPATH=$site AKASHLLM_PORT=${OLLAMA_HOST#*:} exec python3 -m akashllm.server
"""
RECIPE = """\
FROM {image} AS ours
FROM {base}
COPY --from=ours /opt/akashllm/lib/python3.11/site-packages /usr/lib/ollama/runners
RUN cd /usr/lib/ollama && cp -r runners cuda_v12 && mkdir cuda_v13 rocm vulkan
COPY ollama /usr/bin/ollama
RUN chmod 0755 /usr/bin/ollama
"""
KEPT = {False: "cuda_v12", True: "runners"}
"""What is left of the stand-in's libraries, by whether the image is the one without a GPU."""


@pytest.fixture(scope="module")
def stand_in(docker_engine: DockerEngine, built: BuiltImage) -> str:
    """An image that has what ours take from Ollama's."""
    recipe = RECIPE.format(image=built.document["id"], base="debian:bookworm-slim")
    with Context({"Dockerfile": recipe.encode(), "ollama": PROGRAM}).tar() as archive:
        said = list(
            docker_engine.api.build(
                fileobj=archive, custom_context=True, tag=STAND_IN, rm=True, decode=True, network_mode="host"
            )
        )
    assert not [line for line in said if "error" in line], said[-1]
    return STAND_IN


@pytest.mark.parametrize("cpu", [True, False])
def test_the_image_with_ollama_s_program_serves(
    docker_address: str, docker_engine: DockerEngine, stand_in: str, tmp_path: Path, cpu: bool
) -> None:
    """Its Dockerfile builds, takes the libraries it can use and no others, and the smoke test is green."""
    command = [sys.executable, "-m", "akashllm", "build", "--engine", "ollama", "--json", "--network", "host"]
    command += ["--tag", "stand-in", "--build-arg", f"OLLAMA_IMAGE={stand_in}", *(["--cpu"] if cpu else [])]
    environ = os.environ | {"DOCKER_HOST": docker_address, "AKASHLLM_HOME": str(tmp_path / "home")}
    document = run_build(command, environ)

    with running(
        docker_engine, document["id"], environ={"MODEL": "tiny"}, cap_drop=["ALL"], tmpfs={"/tmp": ""}
    ) as container:
        report = judge(container.url, api_key=KEY, model="tiny")
        processes = container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")[1]

        assert container.sh("ls /usr/lib/ollama")[1].split() == [KEPT[cpu]]
        assert container.sh("id -u")[1].strip() == str(UID)
        assert "python3 -m akashllm.server" in processes
        assert "guardian" in processes
    assert [f"{each.name}: {each.reason}" for each in report.broken] == []
