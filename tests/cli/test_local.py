"""The way a person goes, with the real engine: deploy, look, use, break, deploy again, close."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from akashllm.digests import Sha256
from akashllm.market.local import LocalMarket
from akashllm.market.local_files import MARK, Lodging
from akashllm.market.processes import Process, family
from akashllm.models import TINY
from akashllm.state import Home
from tests.screen import Sit

from .conftest import CANARY, Run, Said

pytestmark = pytest.mark.engine

DEPLOY = ("deploy", "--market", "local", "--name", "one", "--context", "512", "--concurrency", "2")
QUICK = {"KEY_OF_MINE": CANARY}
WITH_KEY = (*DEPLOY, "--api-key-env", "KEY_OF_MINE")


def running(home: Home) -> list[Process]:
    """Every process of every deployment of this home."""
    found = []
    for path in home.local.iterdir() if home.local.is_dir() else ():
        found += family(MARK, str(path))
    return found


def one_deployment(home: Home) -> bool:
    """Supervisor, service, engine; and perhaps the process in which the engine tries constraints."""
    return len(running(home)) in {3, 4}


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for another process to get there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it never happened")


def readable_files(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a directory."""
    for path in root.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_one_command_ends_in_a_verified_url(there: Run, home: Home) -> None:
    """A person sees plan, steps and verdicts, then URL, key and a curl line that answers when pasted."""
    said = there("deploy", "--market", "local")

    assert said.code == 0, said.err
    for line in (
        "price: free: this machine",
        "GiB  in all",
        "[smoke] ok       chat (openai): The capital of France is Paris.",
    ):
        assert line in said.err
    assert "BROKEN" not in said.err
    key = re.search(r"^export KEY=(\S+)$", said.out, re.MULTILINE)
    assert key
    assert (said.out.count(key[1]), said.err.count(key[1])) == (1, 0)
    script = "\n".join(line for line in said.out.splitlines() if line.startswith(("export", "curl")))
    reply = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "Paris" in json.loads(reply.stdout)["choices"][0]["message"]["content"]
    sdl = re.search(r"^SDL +(.+)$", said.out, re.MULTILINE)
    assert sdl
    assert "AKASHLLM_API_KEY=${AKASHLLM_API_KEY}" in Path(sdl[1]).read_text()


def test_a_deployments_whole_life(here: Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploy, list, status, logs, url, key, deploy again, smoke-test, close: as documents and in words."""
    monkeypatch.setenv("KEY_OF_MINE", CANARY)
    said = here(*WITH_KEY, "--json")
    assert said.code == 0, said.err
    document = said.document
    assert {"name", "state", "url", "api_key", "model", "engine", "sdl", "smoke"} <= set(document)
    assert (document["name"], document["state"], document["model"]) == ("one", "ready", "tiny")
    assert document["engine"] == "llamacpp"
    assert document["smoke"]["broken"] == 0
    url = document["url"]

    (row,) = here("list", "--json").document["deployments"]
    assert (row["name"], row["state"], row["url"], row["restarts"]) == ("one", "ready", url, 0)
    status = here("status", "one", "--json").document
    assert (status["state"], status["smoke"]["broken"], status["price"]) == ("ready", 0, "free: this machine")
    assert [event["step"] for event in status["events"]][-1] == "smoke"
    assert here("url", "on").out == url + "\n"
    assert here("key", "one").out == CANARY + "\n"
    assert here("logs", "one", "--tail", "2", "--json").document["lines"][1]["text"]
    before = {process.pid for process in running(home)}

    again = here(*WITH_KEY, "--json").document
    words = here(*WITH_KEY)

    assert (again["url"], again["already_running"]) == (url, True)
    assert f"already running at {url}" in words.out
    assert {process.pid for process in running(home)} == before
    judged = here("smoke-test", url, "--api-key-env", "KEY_OF_MINE", "--only", "chat", "--json")
    assert (judged.code, judged.document["ok"]) == (0, True)
    assert here("smoke-test", url, "--only", "chat").code == 1

    refused = here("close", "one")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    closed = here("close", "one", "--yes", "--json").document
    assert (closed["name"], closed["state"]) == ("one", "closed")
    assert running(home) == []
    assert here("list", "--json").document == {"deployments": []}
    assert here("list", "--all", "--json").document["deployments"][0]["state"] == "closed"
    assert here("logs", "one").code == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)


def test_who_manages_models_has_a_key_of_their_own(
    there: Run, here: Run, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--manage` ends in a second key, which makes models that the first one may use and not make."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    document = there(*DEPLOY, "--manage", "--json").document
    url, key, admin = document["url"], document["api_key"], document["admin_key"]
    assert admin != key
    assert here("key", "one", "--admin").out == admin + "\n"
    holders = [path for path, data in readable_files(home.root) if admin.encode() in data]
    assert {path.name for path in holders} == {"admin-key", "manifest.json"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    assert "AKASHLLM_ADMIN_KEY=${AKASHLLM_ADMIN_KEY}" in Path(document["sdl"]).read_text()

    weights = TINY.read_bytes()
    digest = str(Sha256.of(weights))

    def post(path: str, with_key: str, **body: Any) -> int:
        headers = {"Authorization": f"Bearer {with_key}"}
        return requests.post(f"{url}{path}", headers=headers, timeout=60, **body).status_code

    assert post(f"/api/blobs/{digest}", key, data=weights) == 403
    assert post(f"/api/blobs/{digest}", admin, data=weights) == 201
    made = {"model": "mine", "files": {"m.gguf": digest}, "stream": False}
    assert post("/api/create", admin, json=made) == 200
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = {"model": "mine", "messages": question, "stream": False}
    assert post("/api/chat", key, json=asked) == 200
    assert (tmp_path / "cache/akashllm/models/manifests").is_dir()

    again = here(*DEPLOY, "--manage", "--json").document
    assert (again["already_running"], again["admin_key"]) == (True, admin)
    assert here("key", "one", "--admin", "--rotate", "--json").code == 2
    assert here("close", "one", "--yes").code == 0
    assert [path for path, data in readable_files(home.root) if admin.encode() in data] == []
    assert here(*DEPLOY, "--json", "--dry-run").code == 0
    assert here("deploy", "--engine", "ollama", "--manage", "--dry-run", "--json").code == 2


def test_the_key_is_nowhere_but_where_it_was_asked_for(
    there: Run, here: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary is in one place of each deploy's stdout, in 0600 key files, and nowhere else at all."""
    first = there(*WITH_KEY, env=QUICK)
    assert (first.code, first.out.count(CANARY), first.err.count(CANARY)) == (0, 1, 0)
    monkeypatch.setenv("KEY_OF_MINE", CANARY)
    outputs = [
        here(*arguments)
        for arguments in (
            DEPLOY,
            ("list", "--json"),
            ("status", "one", "--json"),
            ("logs", "one"),
            ("url", "one"),
            (*DEPLOY[:-1], "3"),
            ("smoke-test", "http://127.0.0.1:9", "--api-key-env", "KEY_OF_MINE", "--json"),
            ("close", "one"),
        )
    ]
    for process in running(home):
        assert CANARY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    holders = {path for path, data in readable_files(home.root) if CANARY.encode() in data}

    assert all(CANARY not in said.out + said.err for said in outputs)
    assert {path.name for path in holders} == {"api-key", "manifest.json"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in holders)
    there("close", "one", "--yes")
    assert [path for path, data in readable_files(home.root) if CANARY.encode() in data] == []


@pytest.mark.parametrize("step", ["[lease]", "[smoke]"])
def test_a_killed_deploy_is_gone_on_with(there: Run, here: Run, home: Home, step: str) -> None:
    """Whatever runs when `deploy` is killed is listed; the next deploy goes on, and one service runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", *WITH_KEY],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **QUICK},
        text=True,
    ) as first:
        assert first.stderr
        for line in first.stderr:
            if line.startswith(step):
                break
        first.send_signal(signal.SIGKILL)

    (row,) = here("list", "--json").document["deployments"]
    assert (row["name"], row["state"]) == ("one", "interrupted")
    said = there(*WITH_KEY, "--json", env=QUICK)
    assert said.code == 0, said.err

    assert said.document["state"] == "ready"
    assert len(LocalMarket(home.local).holdings()) == 1
    # Supervisor, service, engine: one of each.
    assert one_deployment(home)


def test_ctrl_c_says_what_still_runs(here: Run, home: Home) -> None:
    """An interrupted deploy exits 130, says what goes on without it, and can be closed."""
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", *WITH_KEY, "--json"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **QUICK},
        text=True,
    ) as first:
        assert first.stderr
        for line in first.stderr:
            if line.startswith("[ready]"):
                break
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)

    assert first.returncode == 130
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert "still running: one" in err
    assert here("close", "one", "--yes").code == 0
    assert running(home) == []


def test_two_deploys_at_once_make_one_deployment(there: Run, home: Home) -> None:
    """Two terminals deploy one name: both end with the same URL, and one service runs."""
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "akashllm", *WITH_KEY, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **QUICK},
        )
        for _ in range(2)
    ]
    documents = [json.loads(one.communicate(timeout=100)[0]) for one in both]

    assert [one.returncode for one in both] == [0, 0]
    assert documents[0]["url"] == documents[1]["url"]
    assert sorted(one["already_running"] for one in documents) == [False, True]
    assert one_deployment(home)


def test_a_crash_is_mended_and_a_dead_supervisor_is_noticed(there: Run, here: Run, home: Home) -> None:
    """A killed service comes back and is counted; without its supervisor it is `stopped`, and deploys again."""
    document = there(*WITH_KEY, "--json", env=QUICK).document
    lodging = Lodging(home.local / document["dseq"])
    record = lodging.record()
    assert record
    assert record.service

    os.kill(record.service.pid, signal.SIGKILL)
    until(
        lambda: (seen := here("status", "one", "--json").document)["restarts"] == 1 and seen["state"] == "ready"
    )
    assert one_deployment(home)

    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: running(home) == [])
    assert here("status", "one", "--json").document["state"] == "stopped"
    again = there(*WITH_KEY, "--json", env=QUICK).document

    assert (again["dseq"], again["url"], again["api_key"]) == (document["dseq"], document["url"], CANARY)
    assert here("status", "one", "--json").document["state"] == "ready"


def test_what_the_record_lost_is_still_listed_and_closed(there: Run, here: Run, home: Home) -> None:
    """With the record gone, `list` shows what runs and `close` ends it by its number."""
    document = there(*WITH_KEY, "--json", env=QUICK).document
    for path in home.root.glob("state.db*"):
        path.unlink()

    (row,) = here("list", "--json").document["deployments"]
    assert (row["state"], row["dseq"], row["url"]) == ("unrecorded", document["dseq"], document["url"])
    assert here("close", document["dseq"], "--yes").code == 0

    assert running(home) == []
    assert here("list", "--json").document == {"deployments": []}


def on_a_terminal(arguments: tuple[str, ...], answer: str) -> Said:
    """Run a command on a pseudo-terminal and answer its question."""
    main, terminal = pty.openpty()
    text = b""
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", *arguments], stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        answered = False
        while True:
            select.select([main], [], [], 60)
            try:
                data = os.read(main, 4096)
            except OSError:
                # Linux answers EIO once nobody has the terminal open any more.
                break
            if not data:
                break
            text += data
            if not answered and b"[y/N]" in text:
                os.write(main, answer.encode())
                answered = True
    os.close(main)
    return Said(process.returncode, text.decode(errors="replace"), "")


def test_close_asks_on_a_terminal_and_the_view_there_is_alive(here: Run, home: Home) -> None:
    """On a terminal deploy draws, and close asks: no leaves everything as it is, yes ends it."""
    shown = on_a_terminal(DEPLOY, "")
    assert (shown.code, "\x1b[" in shown.out) == (0, True), shown.out
    assert re.search(r"export URL=http://127\.0\.0\.1:\d+\r\n", shown.out)

    refused = on_a_terminal(("close", "one"), "\n")
    assert (refused.code, "left as it is" in refused.out) == (1, True)
    assert one_deployment(home)
    assert on_a_terminal(("close", "one"), "y\n").code == 0
    assert running(home) == []


def test_a_followed_log_ends_with_its_deployment(there: Run, here: Run, home: Home) -> None:
    """`logs -f` shows what is written while it looks, and ends when the deployment does."""
    document = there(*WITH_KEY, "--json", env=QUICK).document
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", "logs", "one", "-f", "-n", "1"], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout
        assert follower.stdout.readline()
        requests.get(f"{document['url']}/no-such-path-a1b2", timeout=10)
        until_line = next(line for line in follower.stdout if "404" in line or "401" in line)
        assert until_line
        here("close", "one", "--yes")
        follower.communicate(timeout=30)

    assert follower.returncode == 0


def test_a_process_has_a_view_that_ends_and_no_shell(there: Run, home: Home, sit: Sit) -> None:
    """Ctrl-C on a followed log is exit code 130 and a word on what goes on; a shell is refused in words."""
    assert there(*DEPLOY).code == 0
    screen = sit("logs", "one", "--follow")
    screen.sees("listening on")
    screen.type("\x03")
    assert screen.ends() == 130
    screen.sees("one goes on; only the view of its log has ended")
    assert "Traceback" not in screen.rest()

    refused = sit("shell", "one")
    assert refused.ends() == 5
    refused.sees("is a process on this machine: there is no container to go into")
    assert one_deployment(home)


def test_serve_in_the_foreground_says_where_and_ends_clean(home: Home, tmp_path: Path) -> None:
    """`serve --json` prints one document once the port answers, prefers options, ends with 0."""
    key = tmp_path / "key"
    key.write_text(CANARY)
    key.chmod(0o600)
    command = ["serve", "--port", "0", "--json", "--api-key-file", str(key), "--alias", "gpt-4o"]
    with subprocess.Popen(
        [sys.executable, "-m", "akashllm", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AKASHLLM_PORT": "1", "AKASHLLM_CONTEXT": "256"},
    ) as service:
        assert service.stdout
        text = ""
        while not text.endswith("}\n"):
            text += service.stdout.readline()
        document = json.loads(text)
        models = requests.get(
            f"{document['url']}/v1/models", headers={"Authorization": f"Bearer {CANARY}"}, timeout=60
        )
        assert requests.get(f"{document['url']}/v1/models", timeout=60).status_code == 401
        service.send_signal(signal.SIGTERM)
        out, err = service.communicate(timeout=60)

    assert (service.returncode, out) == (0, "")
    assert {model["id"] for model in models.json()["data"]} >= {"tiny", "gpt-4o"}
    assert CANARY not in err + shlex.join(command)
