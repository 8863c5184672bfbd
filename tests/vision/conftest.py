"""The bundled model with a random projector: one engine for what is asked of it directly, one service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from akashllm.models import TINY
from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Generation,
    Image,
    Message,
    Sampling,
    Usage,
)
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.run import Server, listen
from akashllm.server.settings import Settings
from tests.vision.projector import write_projector

KEY = "eyes-wide-open-0123456789abcdef"


@pytest.fixture(scope="session")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the random projector."""
    return write_projector(tmp_path_factory.mktemp("models") / "mmproj.gguf")


@asynccontextmanager
async def seeing(projector: Path, **options: Any) -> AsyncIterator[LlamaCppEngine]:
    """An engine that sees, closed whatever happens."""
    engine = LlamaCppEngine(TINY, name="tiny:latest", projector=projector, **options)
    try:
        await engine.load()
        yield engine
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def engine(projector: Path) -> AsyncIterator[LlamaCppEngine]:
    """An engine with room for four."""
    async with seeing(projector, slots=4) as engine:
        yield engine


@pytest.fixture(scope="package")
def url(projector: Path) -> Iterator[str]:
    """A service over such an engine, in a thread."""
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    found: list[tuple[Server, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        settings = Settings(port=0, api_key=KEY, max_image_pixels=1_000_000, max_images=3, log_level="error")
        server = Server(settings, LlamaCppEngine(TINY, name="tiny:latest", slots=2, projector=projector))
        found.append((server, asyncio.get_running_loop()))
        await server.until_stopped(listener, lambda _: ready.set())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(60)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server, loop = found[0]
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the service, with its key."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


def shown(data: bytes, text: str = "What do you see?", media_type: str = "image/png") -> Message:
    """A question with an image."""
    return Message(role="user", content=text, images=(Image(media_type=media_type, data=data),))


def question(*messages: Message, tokens: int = 16, **fields: Any) -> Generation:
    """A greedy request for the answer to a chat."""
    return Generation(
        id="1",
        model="tiny:latest",
        prompt=ChatPrompt(messages=messages),
        sampling=Sampling(temperature=0.0),
        max_tokens=tokens,
        **fields,
    )


async def answer(engine: LlamaCppEngine, request: Generation) -> tuple[str, Usage]:
    """Everything that was said, thoughts included, and what it took."""
    text, usage = "", Usage()
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.thinking + event.text
        elif isinstance(event, Done):
            usage = event.usage
    return text, usage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the package's engine run in the session's loop."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            if "engine" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
