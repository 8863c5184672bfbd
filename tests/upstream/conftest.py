"""Upstreams that run, and the service in front of each of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import openai
import pytest

from akashllm.models import TINY
from akashllm.server.engines.upstream.engine import UpstreamEngine
from akashllm.server.settings import Settings
from tests.ollama.conftest import ALIASES, serving

KEY = "of-the-upstream-0123456789"
ROOT = Path(__file__).parents[2]

FRONTS = ["ours-openai", "ours-ollama", "llama-server"]

ALL = ""
LACKS = {
    (ALL, "test_scoring"): "no upstream is asked to score prompts",
    (
        "ours-openai",
        "test_generate_streams_the_same_answer",
    ): "it sends tokens a millisecond apart in one piece",
    (
        "ours-ollama",
        "test_generate_streams_the_same_answer",
    ): "it sends tokens a millisecond apart in one piece",
    ("ours-ollama", "test_grammar"): "Ollama's dialect holds answers to JSON Schemas only",
    ("ours-ollama", "test_logit_bias"): "Ollama's dialect has no logit_bias",
    (
        "llama-server",
        "test_models_are_listed_shown_and_running",
    ): "llama-server does not show the file's header",
}
"""What an upstream has not. That it is refused, and in which words, is tested beside the requests."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running(arguments: Sequence[str], environ: Mapping[str, str], port: int) -> Iterator[str]:
    """The URL of a server that runs as a process of its own, once its `/health` is well."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environ
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def ours() -> Iterator[str]:
    """The URL of this service over llama.cpp, with a key, as an upstream."""
    port = free_port()
    environ = {"AKASHLLM_PORT": str(port), "AKASHLLM_API_KEY": KEY, "AKASHLLM_CONCURRENCY": "4"}
    with running([sys.executable, "-m", "akashllm.server"], environ, port) as url:
        yield url


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The URL of llama.cpp's own server on the bundled model.

    If it was not compiled before, that is a failure: AKASHLLM_SKIP_LLAMA_SERVER=1 allows it.
    """
    if os.environ.get("AKASHLLM_SKIP_LLAMA_SERVER") == "1":
        pytest.skip("AKASHLLM_SKIP_LLAMA_SERVER=1: llama-server is not put behind the service")
    built = subprocess.run(
        [ROOT / "scripts/llama-server", sys.executable, "--cached"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, (
        f"no llama-server (AKASHLLM_SKIP_LLAMA_SERVER=1 leaves it out):\n{built.stderr}"
    )
    port = free_port()
    arguments = [
        "-m",
        str(TINY),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-c",
        "8192",
        "-np",
        "4",
        "-t",
        "2",
    ]
    more = ["--jinja", "--embeddings", "--pooling", "mean", "--api-key", KEY]
    with running([built.stdout.strip(), *arguments, *more], {}, port) as url:
        yield url


@contextlib.contextmanager
def front(url: str, dialect: str, *, key: str | None = None) -> Iterator[str]:
    """The URL of the service with `url` as its upstream."""
    engine = UpstreamEngine(url, name="tiny:latest", key=KEY, dialect=dialect, slots=4)
    settings = Settings(
        engine="upstream", upstream_url=url, api_key=key, model_aliases=ALIASES, log_level="error"
    )
    with serving(engine, settings) as found:
        yield found


@pytest.fixture(scope="session", params=FRONTS)
def upstream(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of each upstream in turn, and the dialect to speak with it."""
    if request.param == "llama-server":
        return request.getfixturevalue("llama_server"), "auto"
    return request.getfixturevalue("ours"), request.param.removeprefix("ours-")


@pytest.fixture(scope="session")
def url(upstream: tuple[str, str]) -> Iterator[str]:
    """The service in front of each upstream, without a key."""
    with front(*upstream) as found:
        yield found


@pytest.fixture(scope="session")
def real(url: str) -> Iterator[openai.OpenAI]:
    """The official client of that service."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def has(request: pytest.FixtureRequest) -> None:
    """Leave out what the upstream has not."""
    if "upstream" in request.fixturenames:
        name = request.node.callspec.params["upstream"]
        for place in (name, ALL):
            reason = LACKS.get((place, request.node.originalname))
            if reason is not None:
                pytest.skip(reason)
