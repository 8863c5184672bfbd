"""For every test: no stopwatch in Hypothesis, no setting of the person who runs them; one real service."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from akashllm.models import TINY
from tests.inherited import without_ours

if TYPE_CHECKING:
    from tests.screen import Sit

settings.register_profile("akashllm", deadline=None, print_blob=True)
settings.load_profile("akashllm")

for name in [name for name in os.environ if name.startswith("AKASHLLM_")]:
    if name != "AKASHLLM_CACHE" and "SKIP" not in name:
        del os.environ[name]


@pytest.fixture
def sit() -> Iterator[Sit]:
    """`sit("shell", "there")`: start a command on a terminal."""
    from tests.screen import Screen

    screens: list[Screen] = []

    def start(*arguments: str) -> Screen:
        screens.append(Screen(*arguments))
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


@pytest.fixture(scope="session")
def service_key() -> str:
    """The key of the real service."""
    return "a-key-for-the-tests-of-the-real-service"


@pytest.fixture(scope="session")
def service_admin_key() -> str:
    """The key that manages its models."""
    return "the-key-of-whoever-may-manage-its-models"


@pytest.fixture(scope="session")
def model_registry() -> Iterator[str]:
    """The address of a registry that holds the bundled model as `llama3.2:1b`.

    Bytes that nobody reads end its file: models made of the bundled one share no weights with it.
    """
    from akashllm.testing.files import running_files

    with running_files() as server:
        config = b'{"model_format":"gguf","model_family":"llama"}'
        layers = {"model": TINY.read_bytes() + bytes(32), "system": b"You are brief."}
        listed = []
        for kind, data in layers.items():
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            server.put(f"/v2/library/llama3.2/blobs/{digest}", data)
            listed.append(
                {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": len(data)}
            )
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        server.put(f"/v2/library/llama3.2/blobs/{digest}", config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest,
                "size": len(config),
            },
            "layers": listed,
        }
        server.put("/v2/library/llama3.2/manifests/1b", json.dumps(manifest).encode())
        yield server.url


@pytest.fixture(scope="session")
def service_url(
    service_key: str, service_admin_key: str, model_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the service as an image runs it: its own process, the bundled model, two keys, a store."""
    environment = without_ours(
        AKASHLLM_PORT="0",
        AKASHLLM_API_KEY=service_key,
        AKASHLLM_ADMIN_KEY=service_admin_key,
        AKASHLLM_MODELS=str(tmp_path_factory.mktemp("models")),
        AKASHLLM_REGISTRY_MIRRORS=f"registry.ollama.ai={model_registry}",
    )
    command = [sys.executable, "-m", "akashllm.server"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        try:
            yield json.loads(first)["message"].removeprefix("listening on ")
        finally:
            process.terminate()
            process.wait(30)
            rest.join(30)
