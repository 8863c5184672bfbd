"""A Whisper alone: its weights from the hub, its recordings over HTTP, and what a smoke test says of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from akashllm.errors import EngineFailed, UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.server.engine import Transcriber
from akashllm.server.engines.fetched import FetchedTranscriber
from akashllm.server.run import Server, build_engine, build_transcriber, listen
from akashllm.server.settings import Settings
from akashllm.smoke import run
from akashllm.testing.hub import HubServer, running_hub
from tests.audio.sounds import tone

KEY = "ears-only-0123456789abcdef"
REPOSITORY = "Systran/faster-whisper-small"


@pytest.fixture
def hub(whisper: Path) -> Iterator[HubServer]:
    """A hub that has the tiny model under a well-known name, with files beside it that nobody needs."""
    files = {path.name: path.read_bytes() for path in whisper.iterdir()}
    with running_hub() as hub:
        hub.put(REPOSITORY, files | {"README.md": b"Whisper", "pytorch_model.bin": b"pickle"})
        yield hub


def settings(hub: HubServer, data: Path, **more: object) -> Settings:
    """Settings of a service that serves the Whisper of the hub alone."""
    chosen = {"engine": "whisper", "model": f"hf.co/{REPOSITORY}", "model_name": "whisper", "threads": 1} | more
    return Settings(
        port=0,
        api_key=KEY,
        hf_endpoint=hub.url,
        data=str(data),
        log_level="error",
        **chosen,  # type: ignore[arg-type] # a table
    )


@contextmanager
def serving(chosen: Settings) -> Iterator[str]:
    """The service of these settings, in a thread: its address."""
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    found: list[tuple[Server, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        server = Server(chosen, build_engine(chosen), transcriber=build_transcriber(chosen))
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


def test_a_whisper_of_the_hub_is_fetched_verified_served_and_passes_the_smoke_test(
    hub: HubServer, tmp_path: Path
) -> None:
    """Only the model's files come; it transcribes; what asks for answers is skipped with the reason."""
    with serving(settings(hub, tmp_path)) as url:
        report = run(url, api_key=KEY, only={"models-listed", "chat", "transcription", "no-key-refused"})
        sent = httpx.post(
            f"{url}/v1/audio/transcriptions",
            headers={"authorization": f"Bearer {KEY}"},
            files={"file": ("a.wav", tone(2.0))},
            data={"model": "whisper", "response_format": "verbose_json"},
            timeout=60,
        )

    verdicts = {(result.name, result.dialect): result.verdict for result in report.results}
    assert verdicts == {
        ("no-key-refused", "openai"): "pass",
        ("no-key-refused", "ollama"): "pass",
        ("models-listed", "openai"): "pass",
        ("models-listed", "ollama"): "pass",
        ("chat", "openai"): "skipped",
        ("chat", "ollama"): "skipped",
        ("transcription", "openai"): "pass",
    }
    assert {r.reason for r in report.results if r.verdict == "skipped"} == {
        "the model transcribes speech and answers nothing"
    }
    assert sent.json()["duration"] == pytest.approx(2.0, abs=0.05)
    came = {path.name for path in tmp_path.rglob("*") if path.is_file() and ".complete" not in path.parts}
    assert came == {"model.bin", "config.json", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"}


def test_a_whisper_that_is_planned_is_the_whisper_that_is_served(hub: HubServer, tmp_path: Path) -> None:
    """The environment of a plan is accepted by the settings, and makes an engine that transcribes."""
    for request in (DeployRequest(model="whisper"), DeployRequest(model="whisper-large-v3", cpu_only=True)):
        plan = make_plan(request)
        chosen = Settings.from_env(dict(plan.env) | {"AKASHLLM_API_KEY": KEY, "AKASHLLM_DATA": str(tmp_path)})
        engine = build_engine(chosen)

        assert isinstance(engine, Transcriber)
        assert (engine.name, engine.info.capabilities) == ("whisper", ("transcription",))
        assert dict(plan.env)["AKASHLLM_MODEL"] == f"hf.co/{plan.model.repository}"
        asyncio.run(engine.close())


def test_a_size_names_its_repository_beside_a_chat_model(hub: HubServer, tmp_path: Path) -> None:
    """`small` is fetched from where faster-whisper has it."""
    chosen = settings(hub, tmp_path, engine="llamacpp", model="tiny", transcribe_model="small")
    transcriber = build_transcriber(chosen)
    assert isinstance(transcriber, FetchedTranscriber)

    async def fetch() -> None:
        await transcriber.fetch()
        await transcriber.close()

    asyncio.run(fetch())
    assert next(tmp_path.rglob("model.bin")).parts[-3] == REPOSITORY.replace("/", "--")


def test_a_repository_without_a_whisper_is_refused_in_words(hub: HubServer, tmp_path: Path) -> None:
    """What is there instead would not be loaded, so nothing is fetched."""
    hub.put("o/chat", {"config.json": b"{}", "model.safetensors": b"x"})
    transcriber = build_engine(settings(hub, tmp_path, model="hf.co/o/chat"))

    async def load() -> None:
        try:
            await transcriber.load()
        finally:
            await transcriber.close()

    with pytest.raises(EngineFailed, match="no Whisper in CTranslate2's format"):
        asyncio.run(load())
    with pytest.raises(UsageError, match="no Whisper in CTranslate2's format in the folder"):
        build_engine(settings(hub, tmp_path, model=str(tmp_path)))
