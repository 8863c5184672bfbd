"""A service that is a Whisper and nothing else, as `AKASHLLM_ENGINE=whisper` starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.audio.conftest import KEY
from tests.inherited import without_ours

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def alone(whisper: Path) -> Iterator[httpx.Client]:
    """A client of the service in its own process."""
    environment = without_ours(
        AKASHLLM_PORT="0",
        AKASHLLM_API_KEY=KEY,
        AKASHLLM_ENGINE="whisper",
        AKASHLLM_MODEL=str(whisper),
        AKASHLLM_MODEL_NAME="whisper:tiny",
    )
    command = [sys.executable, "-m", "akashllm.server"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["message"].removeprefix("listening on ")
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        try:
            with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
                yield client
        finally:
            process.terminate()
            process.wait(30)
            rest.join(30)


def test_it_transcribes_under_its_name(alone: httpx.Client, sound: bytes) -> None:
    """The deployed model's name and `whisper-1` both mean it."""
    for name in ("whisper:tiny", "whisper-1"):
        answer = alone.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound)}, data={"model": name})
        assert answer.status_code == 200, answer.text
        assert answer.json()["text"]


def test_it_says_that_it_does_not_chat(alone: httpx.Client) -> None:
    """Chats, completions and embeddings are refused in each dialect, in words."""
    chat = {"model": "whisper:tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"model": "whisper:tiny", "prompt": "Hi"}),
        ("/v1/embeddings", {"model": "whisper:tiny", "input": "Hi"}),
        ("/api/chat", chat),
        ("/api/generate", {"model": "whisper:tiny", "prompt": "Hi", "stream": False}),
        ("/api/embed", {"model": "whisper:tiny", "input": "Hi"}),
    ):
        answer = alone.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
        assert "error" in answer.json()


def test_it_is_healthy_and_listed(alone: httpx.Client) -> None:
    """Health, lists and show work as for any model."""
    assert alone.get("/health").json()["status"] == "ready"
    assert [model["id"] for model in alone.get("/v1/models").json()["data"]] == ["whisper:tiny"]
    assert [model["name"] for model in alone.get("/api/tags").json()["models"]] == ["whisper:tiny"]
    assert alone.post("/api/show", json={"model": "whisper:tiny"}).json()["capabilities"] == ["transcription"]
