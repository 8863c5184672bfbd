"""One service with a chat model that is scripted and a Whisper that is real, tiny and random."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from starlette.datastructures import State

from akashllm.server.engines.whisper.engine import WhisperEngine
from akashllm.server.run import Server, listen
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from tests.audio.sounds import tone
from tests.audio.whisper import write_whisper

KEY = "open-your-ears-0123456789abcdef"


@dataclass(frozen=True)
class Listening:
    """A service that listens: where it is, and the engine that transcribes."""

    root: str
    engine: WhisperEngine
    state: State


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    return write_whisper(tmp_path_factory.mktemp("models") / "tiny-whisper")


@pytest.fixture(scope="package")
def listening(whisper: Path) -> Iterator[Listening]:
    """The service, in a thread."""
    engine = WhisperEngine(str(whisper), name="tiny-whisper", threads=1)
    settings = Settings(
        port=0,
        api_key=KEY,
        transcribe_model=str(whisper),
        max_audio_bytes=4_000_000,
        max_audio_seconds=120,
        drain_timeout=1.0,
        log_level="error",
    )
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    found: list[tuple[Server, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        server = Server(settings, ScriptedEngine(), transcriber=engine)
        found.append((server, asyncio.get_running_loop()))
        await server.until_stopped(listener, lambda _: ready.set())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(60)
        yield Listening(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, found[0][0].app.state)
    finally:
        server, loop = found[0]
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def client(listening: Listening) -> Iterator[openai.OpenAI]:
    """The official client; it does not retry, so that each error is seen."""
    with openai.OpenAI(base_url=f"{listening.root}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="package")
def http(listening: Listening) -> Iterator[httpx.Client]:
    """A plain client with the key."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=listening.root, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def sound() -> bytes:
    """A few seconds of sound."""
    return tone(4.8)
