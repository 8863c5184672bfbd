"""For every test: no stopwatch in Hypothesis, no setting of the person who runs them; one real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("akashllm", deadline=None, print_blob=True)
settings.load_profile("akashllm")

for name in [name for name in os.environ if name.startswith("AKASHLLM_")]:
    if name != "AKASHLLM_CACHE" and "SKIP" not in name:
        del os.environ[name]


@pytest.fixture(scope="session")
def service_key() -> str:
    """The key of the real service."""
    return "a-key-for-the-tests-of-the-real-service"


@pytest.fixture(scope="session")
def service_url(service_key: str) -> Iterator[str]:
    """The address of the service as an image runs it: its own process, the bundled model, a key."""
    environment = os.environ | {"AKASHLLM_PORT": "0", "AKASHLLM_API_KEY": service_key}
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
