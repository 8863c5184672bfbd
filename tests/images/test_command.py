"""`akashllm build` and `akashllm images`: what is impossible is refused before anything happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from akashllm.cli.app import run


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No engine to talk to, and a home that does not exist yet."""
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        ["--engine", "tgi"],
        ["--engine", "vllm", "--cpu"],
        ["--push"],
        ["--repository", "ghcr.io/me/x"],
        ["--push", "--repository", "../x"],
        ["--push", "--repository", "ghcr.io/me/x:1"],
        ["--push", "--repository", "ghcr.io/me/$(id)"],
        ["--tag", "a\nb"],
        ["--tag", ""],
        ["--platform", "amd64"],
        ["--platform", "linux/amd64; id"],
        ["--network", "host --privileged"],
        ["--wheelhouse", "/nowhere"],
        ["--build-arg", "CUDA"],
        ["--build-arg", "NOPE=1"],
        ["--own-volume", "--build-arg", "START_USER=10001:10001"],
        ["--build-arg", "CUDA=1\n2"],
        ["--build-arg", "PIP_INDEX_URL=https://me:hunter2@index.example/simple"],
    ],
)
def test_what_cannot_be_is_refused_at_once(
    options: list[str], alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with a hint, exit code 2, nothing asked of Docker and nothing written; no secret repeated."""
    assert run(["build", *options, "--json"]) == 2

    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert error["hint"]
    assert "\n" not in error["message"]
    assert "hunter2" not in said.out + said.err
    assert list(alone.iterdir()) == []


@pytest.mark.parametrize("command", [["build", "--cpu"], ["images"], ["images", "x:1"]])
def test_without_an_engine_the_exit_code_says_unreachable(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No Docker engine is exit code 3 and says where it was looked for."""
    assert run([*command, "--json"]) == 3

    error = json.loads(capsys.readouterr().out)["error"]
    assert "unix:///nowhere/docker.sock" in error["message"]
    assert "DOCKER_HOST" in error["hint"]


def test_a_remote_image_is_told_without_docker(registry: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`images --remote` needs a registry only: an image that is not there is a plain error."""
    assert run(["images", f"{registry}/me/none:1", "--remote", "--json"]) == 2

    assert "no such image" in json.loads(capsys.readouterr().out)["error"]["message"]
