"""The service on a real socket: over the scripted engine, and over llama.cpp with the bundled model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from akashllm.models import TINY
from akashllm.server.app import create_app
from akashllm.server.domain import ChatPrompt, Generation, ToolCall
from akashllm.server.engine import Engine
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine, asked

ALIASES = ("llama3", "llama3.1", "nomic-embed-text")
"""What the user's documents call their models."""


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listening.set()


@contextlib.contextmanager
def serving(engine: Engine, settings: Settings) -> Iterator[str]:
    """The base URL of a service that runs in a thread until the block ends."""
    config = uvicorn.Config(create_app(settings, engine), log_config=None, timeout_graceful_shutdown=5)
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            assert server.listening.wait(60)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def script(request: Generation) -> Reply:
    """What the bundled model would say, near enough for its clients."""
    text = asked(request.prompt)
    if request.constraint is not None:
        return Reply('{"city": "Paris"}', pieces=('{"city": ', '"Paris"', "}"))
    if isinstance(request.prompt, ChatPrompt) and request.prompt.tools:
        return Reply(tool_calls=(ToolCall(id="call_1", name="get_weather", arguments='{"city":"Paris"}'),))
    if text == "die":
        return Reply("one two three", die_after=2)
    return Reply(f"You said: {text}", thinking=thinking(request))


def thinking(request: Generation) -> str:
    """A thought, if one is asked for."""
    return "Let me see." if isinstance(request.prompt, ChatPrompt) and request.prompt.think else ""


@pytest.fixture(scope="session")
def scripted() -> Iterator[str]:
    """The URL of a service over the scripted engine."""
    with serving(ScriptedEngine(script), Settings(model_aliases=ALIASES, log_level="error")) as url:
        yield url


@pytest.fixture(scope="session")
def real() -> Iterator[str]:
    """The URL of a service over llama.cpp and the bundled model."""
    from akashllm.server.engines.llamacpp.engine import LlamaCppEngine

    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=4)
    with serving(engine, Settings(model_aliases=ALIASES, log_level="error")) as url:
        yield url


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.engine)])
def url(request: pytest.FixtureRequest) -> str:
    """Each of the two services in turn."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def http(scripted: str) -> Iterator[httpx.Client]:
    """A plain HTTP client for the scripted service."""
    with httpx.Client(base_url=scripted, timeout=30) as client:
        yield client


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of an NDJSON body."""
    return [json.loads(line) for line in response.text.splitlines()]
