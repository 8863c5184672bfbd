"""`akashllm doctor`: finds what is wrong, says what to do, shows no secret and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from akashllm.cli.app import run
from akashllm.images.doctor import Finding, examine
from akashllm.state import Home
from tests.images.conftest import CANARY, free_port

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def found(home: Path, environ: dict[str, str] | None = None, reach: tuple[str, ...] = ()) -> dict[str, Finding]:
    """The findings by name."""
    return {
        finding.what: finding for finding in examine(Home(home), environ=NOWHERE | (environ or {}), reach=reach)
    }


def test_every_finding_that_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    """A warning or a failure never stands without advice."""
    findings = found(tmp_path / "home", {"HF_TOKEN": "a b\n"}, ("https://127.0.0.1:1", "ftp://x"))

    assert [finding for finding in findings.values() if finding.verdict != "ok" and not finding.advice] == []
    assert findings["python"].verdict == "ok"
    assert findings["akashllm"].verdict in {"ok", "warn"}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """The state directory is not made by looking for it."""
    findings = found(tmp_path / "home")

    assert findings["state"].verdict == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_open_to_others_is_found(tmp_path: Path) -> None:
    """Wide permissions are a failure, with the command that mends them."""
    (tmp_path / "home").mkdir(mode=0o755)

    state = found(tmp_path / "home")["state"]

    assert state.verdict == "fail"
    assert "chmod 700" in state.advice


def test_a_key_is_there_or_not_and_never_shown(tmp_path: Path) -> None:
    """Of a key, its presence and whether it can be one are told; nothing of its text."""
    good = found(tmp_path, {"HF_TOKEN": CANARY})
    bad = found(tmp_path, {"HF_TOKEN": f"{CANARY}\n"})

    assert good["HF_TOKEN"].verdict == "ok"
    assert bad["HF_TOKEN"].verdict == "fail"
    assert CANARY[:8] not in repr((good, bad))


def test_no_docker_is_a_warning_with_a_way_out(tmp_path: Path) -> None:
    """Docker is needed to build only, so its absence does not fail the examination."""
    docker = found(tmp_path)["docker"]

    assert docker.verdict == "warn"
    assert "akashllm build" in docker.advice


@pytest.mark.docker
@pytest.mark.timeout(700)
def test_a_real_engine_is_described(tmp_path: Path, docker_address: str) -> None:
    """Version, platform and storage of a real engine are told, and how much room it has."""
    findings = found(tmp_path, {"DOCKER_HOST": docker_address})

    assert "linux/" in findings["docker"].detail
    assert "docker disk" in findings


def test_reach_tells_who_answers(tmp_path: Path, registry: str) -> None:
    """An address that answers is fine, one that does not is a failure."""
    assert found(tmp_path, reach=(f"http://{registry}/v2/",))["reach"].verdict == "ok"
    assert found(tmp_path, reach=(f"http://127.0.0.1:{free_port()}",))["reach"].verdict == "fail"


def test_the_command_fails_with_the_findings_as_its_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json stdout is one document, also where something stands in the way; the exit code is 1."""
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", NOWHERE["DOCKER_HOST"])

    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert run(["doctor", "--json", "--reach", f"http://127.0.0.1:{free_port()}"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["findings"][-1]["verdict"] == "fail"
    assert document["error"]["exit_code"] == 1


def test_the_ways_to_akash_are_looked_for(tmp_path: Path) -> None:
    """A key for Console and Akash's own command: there or not, a bad one named, none of them shown or run."""
    nothing = found(tmp_path / "home", {"PATH": str(tmp_path)})
    assert nothing["console"].detail == "no API key"
    assert "login" in nothing["console"].advice
    assert nothing["akash cli"].verdict == "ok"
    assert "wallet only" in nothing["akash cli"].advice

    command = tmp_path / "provider-services"
    command.write_text("#!/bin/sh\nexit 7\n")
    command.chmod(0o700)
    key = "ac.sk.test." + CANARY
    there = found(tmp_path / "home", {"PATH": str(tmp_path), "AKASH_CONSOLE_API_KEY": key})
    assert there["akash cli"].detail == str(command)
    assert there["console"].detail.startswith("there is an API key")
    assert CANARY not in repr(there)
    bad = found(tmp_path / "home", {"AKASH_CONSOLE_API_KEY": "two words", "AKASHLLM_AKASH_CLI": "nowhere"})
    assert (bad["console"].verdict, bad["akash cli"].verdict) == ("fail", "warn")
