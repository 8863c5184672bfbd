"""The example of the lllms document, word for word, with a hub on this machine in the place of the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from akashllm.models import TINY
from akashllm.testing.files import Asked, Fault
from akashllm.testing.hub import running_hub
from tests.fleet.test_config import DOCUMENT

pytestmark = pytest.mark.engine

REPOSITORY, FILE = "microsoft/Phi-3-mini-4k-instruct-gguf", "Phi-3-mini-4k-instruct-q4.gguf"
REQUEST = """{
      "model": "phi3-mini-4k",
      "messages": [
          {
              "role": "system",
              "content": "You are the Batman."
          },
          {
              "role": "user",
              "content": "im robin, lets count to 10!"
          }
      ]
  }"""
JSON = {"Accept": "application/json"}


@contextmanager
def serving(folder: Path, config: str, **environ: str) -> Iterator[httpx.Client]:
    """A client of `akashllm serve --config`, a process of its own on any free port, ended with SIGTERM."""
    path = folder / "models.yaml"
    path.write_text(config)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AKASHLLM_", "HF_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", "serve", "--config", str(path), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**kept, "AKASHLLM_HOME": str(folder / "home"), "AKASHLLM_DATA": str(folder / "data"), **environ},
    ) as service:
        try:
            assert service.stdout
            text = ""
            while not text.endswith("}\n"):
                line = service.stdout.readline()
                assert line, "the service ended"
                text += line
            with httpx.Client(base_url=json.loads(text)["url"], timeout=60, trust_env=False) as client:
                yield client
        finally:
            service.send_signal(signal.SIGTERM)
            service.communicate(timeout=60)
    assert service.returncode == 0


def test_the_documents_example(tmp_path: Path) -> None:
    """The model is fetched while requests for it wait; then it answers, with its preloaded messages cached."""
    gate = threading.Event()

    def judge(_: Asked) -> Fault | None:
        assert gate.wait(60)
        return None

    with running_hub() as hub, ThreadPoolExecutor() as threads:
        hub.put(REPOSITORY, {FILE: TINY.read_bytes()})
        hub.cdn.judge = judge
        with serving(tmp_path, DOCUMENT, HF_ENDPOINT=hub.url) as client:
            try:
                during: dict[str, Any] = {"downloads": []}
                while not during["downloads"]:
                    during = client.get("/", headers=JSON).json()
                assert during["downloads"][0]["model"] == "phi3-mini-4k:latest"
                assert during["models"] == ["phi3-mini-4k:latest"]
                assert client.get("/health").status_code == 503
                waiting = threads.submit(client.post, "/openai/v1/chat/completions", content=REQUEST)
                while not client.get("/", headers=JSON).json()["slots"]["used"]:
                    assert not waiting.done()
            finally:
                gate.set()
            answer = waiting.result(timeout=60)
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert (body["object"], body["model"]) == ("chat.completion", "phi3-mini-4k")
            assert body["choices"][0]["finish_reason"] == "stop"
            assert body["usage"]["prompt_tokens_details"]["cached_tokens"] > 8
            state = client.get("/", headers=JSON).json()
            assert client.get("/").json() == state
            assert client.get("/", headers={"Accept": "text/plain"}).text == "Ollama is running"
            (instance,) = state["instances"]
            assert state["downloads"] == []
            assert instance["slots"] == {"total": 2, "used": 0}
            assert (instance["context"], instance["pinned"], instance["status"]) == (1024, True, "ready")
            unloaded = client.post("/api/generate", json={"model": "phi3-mini-4k", "keep_alive": 0})
            assert unloaded.status_code == 200
            assert client.get("/api/ps").json()["models"], "minInstances keeps one ready"


def test_models_of_a_file_side_by_side(tmp_path: Path) -> None:
    """Models are loaded when they are asked for, `ttl` unloads them, and `concurrency` bounds them together."""
    config = {
        "concurrency": 1,
        "models": {
            "one": {"file": str(TINY), "ttl": -1, "completionDefaults": {"temperature": 0, "maxTokens": 2}},
            "two": {"file": str(TINY), "ttl": 0, "maxInstances": 3, "contextSize": 256},
        },
    }
    with serving(tmp_path, json.dumps(config)) as client:
        assert client.get("/health").json()["status"] == "unloaded"
        assert client.get("/health").status_code == 200
        asked: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Count to 12."}]}
        first = client.post("/v1/chat/completions", json=asked).json()
        assert first["usage"]["completion_tokens"] == 2
        asked |= {"max_tokens": 5}
        assert client.post("/v1/chat/completions", json=asked).json()["usage"]["completion_tokens"] == 5
        names = {one["name"] for one in client.get("/api/tags").json()["models"]}
        assert names == {"one:latest", "two:latest"}
        loaded = [one["name"] for one in client.get("/api/ps").json()["models"]]
        assert loaded == ["one:latest"]
        shown = client.post("/api/show", json={"model": "one"}).json()["parameters"].split()
        assert shown == ["num_predict", "2", "temperature", "0"]
        with ThreadPoolExecutor() as threads:
            both = [
                threads.submit(client.post, "/v1/chat/completions", json={**asked, "model": name})
                for name in ("one", "two", "two")
            ]
            assert [one.result(timeout=60).status_code for one in both] == [200] * 3
        while len(client.get("/api/ps").json()["models"]) > 1:
            pass
        assert client.get("/", headers=JSON).json()["slots"]["total"] == 1


def test_what_a_file_configures_is_copied_but_never_replaced(tmp_path: Path) -> None:
    """Its models can be the base of models in the store; their names are not to be had there, nor deleted."""
    config = {"models": {name: {"file": str(TINY)} for name in ("one", "two")}}
    store = {"AKASHLLM_MODELS": str(tmp_path / "models"), "AKASHLLM_MANAGE_UNAUTHENTICATED": "true"}
    with serving(tmp_path, json.dumps(config), **store) as client:
        for name in ("one", "two"):
            copied = client.post("/api/copy", json={"source": name, "destination": f"{name}-again"})
            made = client.post("/api/create", json={"model": f"my-{name}", "from": name, "stream": False})
            assert (copied.status_code, made.status_code) == (200, 200)
            for path, body in (
                ("/api/copy", {"source": "one-again", "destination": name}),
                ("/api/create", {"model": name, "from": "one-again", "stream": False}),
            ):
                refused = client.post(path, json=body)
                assert refused.status_code == 400
                assert "choose another name" in refused.json()["error"]
            kept = client.request("DELETE", "/api/delete", json={"model": name})
            assert (kept.status_code, "it stays" in kept.json()["error"]) == (403, True)
        names = {one["name"].removesuffix(":latest") for one in client.get("/api/tags").json()["models"]}
        assert names == {"one", "two", "one-again", "two-again", "my-one", "my-two"}
