"""What `serve` tells the service, whichever engine and model it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

import akashllm.server.run
from akashllm.cli.app import run as run_command
from akashllm.server.settings import Settings


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of each service that would have run."""
    seen: list[Settings] = []
    monkeypatch.setattr(akashllm.server.run, "serve", lambda settings, **_: seen.append(settings))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return seen


@pytest.mark.parametrize(
    ("engine", "model", "runs", "weights"),
    [
        ("vllm", "llama3", "vllm", "hf.co/meta-llama/Meta-Llama-3-8B-Instruct"),
        ("vllm", "hf.co/org/repo", "vllm", "hf.co/org/repo"),
        ("ollama", "llama3:70b", "ollama", "llama3:70b"),
        ("upstream", "what-it-says", "upstream", "what-it-says"),
        ("whisper", "small", "whisper", "small"),
        ("llama.cpp", "hf.co/org/repo:Q8_0", "llamacpp", "hf.co/org/repo:Q8_0"),
        (None, "whisper", "whisper", "hf.co/mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
    ],
)
def test_every_engine_gets_its_own_kind_of_model(
    told: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
    engine: str | None,
    model: str,
    runs: str,
    weights: str,
) -> None:
    """A name of the catalogue means the files of the engine that runs; what an engine reads itself is
    passed on as it is typed, and no network is asked.
    """
    monkeypatch.setenv("AKASHLLM_UPSTREAM_URL", "http://127.0.0.1:9")
    assert run_command(["serve", *(("--engine", engine) if engine else ()), "--model", model]) == 0
    assert [(one.engine, one.model) for one in told] == [(runs, weights)]


def test_a_folder_is_a_model(told: list[Settings], tmp_path: Path) -> None:
    """A folder of files is served as it is, by an engine that reads folders."""
    assert run_command(["serve", "--engine", "vllm", "--model", str(tmp_path)]) == 0
    assert [(one.engine, one.model) for one in told] == [("vllm", str(tmp_path))]


def test_an_unknown_engine_is_refused(told: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    """An engine that does not exist ends with exit code 2 and the names of those that do."""
    assert run_command(["serve", "--engine", "gpt"]) == 2
    assert not told
    assert "llamacpp, vllm, ollama, upstream, whisper" in capsys.readouterr().err
