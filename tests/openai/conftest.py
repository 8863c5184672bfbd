"""One scripted service on a real socket for all HTTP tests of the dialect."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import openai
import pytest
import uvicorn

from akashllm.errors import BadRequest, Busy, EngineDied
from akashllm.models import TINY
from akashllm.server.app import create_app
from akashllm.server.domain import ChatPrompt, Generation, ToolCall
from akashllm.server.engine import Engine
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine, asked

KEY = "sesame-open-" + "0123456789" * 3
ALIASES = ("gpt-4o", "ours/big:8b", "whatever", "qwen2:0.5b", "phi3-mini-4k")
CALL = ToolCall(id="call_1", name="get_weather", arguments='{"city":"Rome"}')
NASTY = 'a\n\ndata: [DONE]\n\n\r\u2028\u2029\x85\0"\\\U0001f600é'


def script(request: Generation) -> Reply:
    """What the engine says to the questions of these tests; it echoes others."""
    text = asked(request.prompt)
    if isinstance(request.prompt, ChatPrompt) and request.prompt.tools and "weather" in text:
        return Reply("", tool_calls=(CALL,))
    if request.constraint is not None:
        return Reply('{"name":"Li Hua","age":33}')
    match text:
        case "capital":
            return Reply("The capital of Japan is Tokyo.")
        case "think":
            return Reply("4", thinking="two and two")
        case "nasty":
            return Reply(NASTY, pieces=tuple(NASTY))
        case "busy":
            return Reply("", error=Busy("the queue is full", retry_after=7))
        case "dies at once":
            return Reply("", error=EngineDied("the engine stopped"))
        case "dies later":
            return Reply("one two three", die_after=2)
        case "fails later":
            return Reply(
                "one two three", fail_after=(2, BadRequest("the schema cannot be met", code="bad_schema"))
            )
        case _:
            return Reply(f"echo: {text}")


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
def serving(engine: Engine) -> Iterator[str]:
    """The root address of a service that runs in a thread until the block ends."""
    settings = Settings(api_key=KEY, model_aliases=ALIASES, log_level="error")
    config = uvicorn.Config(create_app(settings, engine), log_config=None, timeout_graceful_shutdown=5)
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert server.listening.wait(60)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@dataclass(frozen=True)
class Service:
    """A scripted service that runs."""

    root: str
    engine: ScriptedEngine

    @property
    def url(self) -> str:
        """Where OpenAI clients are pointed."""
        return f"{self.root}/v1"

    def last(self) -> Generation:
        """What the engine was asked last."""
        return self.engine.requests[-1]


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """The service, with a key and with other names: one has a slash and a tag, some are the documents'."""
    engine = ScriptedEngine(script)
    with serving(engine) as root:
        yield Service(root, engine)


@pytest.fixture(scope="package")
def real() -> Iterator[openai.OpenAI]:
    """The official client of a service over llama.cpp and the bundled model."""
    from akashllm.server.engines.llamacpp.engine import LlamaCppEngine

    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=4)
    with (
        serving(engine) as root,
        openai.OpenAI(base_url=f"{root}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def http(service: Service) -> Iterator[httpx.Client]:
    """A plain HTTP client with the key, at the root of the service."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=service.root, headers=headers, timeout=10) as client:
        yield client


@pytest.fixture(scope="package")
def client(service: Service) -> Iterator[openai.OpenAI]:
    """The official client. It does not retry, so that each error is seen."""
    with openai.OpenAI(base_url=service.url, api_key=KEY, max_retries=0, timeout=10) as client:
        yield client
