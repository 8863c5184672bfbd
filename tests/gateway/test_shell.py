"""`akashllm shell` on a real terminal and on pipes, against a gateway that runs real commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from akashllm.errors import ConnectionLost, ProviderFailed, UsageError
from akashllm.market.gateway import Gateway
from akashllm.market.shell import Ran
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import fill
from akashllm.state import Home, Store
from tests.screen import COMMAND, PATIENCE, Sit

from .conftest import PROVIDER, MakePlace, Place


@pytest.fixture
def place(make_place: MakePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A provider that runs the deployment `there`, which the record knows."""
    for name in list(os.environ):
        if name.startswith(("AKASH_", "AKASHLLM_")):
            monkeypatch.delenv(name)
    place = make_place()
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AKASH_CONSOLE_API_URL", place.market.url)
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", place.market.key)
    monkeypatch.setenv("PS1", "remote> ")
    monkeypatch.setenv("TERM", "dumb")
    with Store(Home.find()) as store:
        row = store.add("there", "console", {"engine": "llamacpp"}, "done")
        store.update(row.id, state="active", dseq=place.dseq)
    return place


def piped(*arguments: str, stdin: bytes | None = None) -> Ran:
    """A command without a terminal; without `stdin` there is nothing to read."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_shell_is_a_terminal_inside(place: Place, sit: Sit) -> None:
    """Keys go there one by one, the window's size at the start and when it changes; its exit code is ours."""
    screen = sit("shell", "there")
    screen.size(91, 33)
    screen.sees("remote> ")
    assert screen.raw()
    screen.type("echo $((6*7))$(tty)\r")
    screen.sees(r"42/dev/pts/\d+")
    screen.size(120, 40)
    while place.gateway.commands[0].sizes[-1:] != [(120, 40)]:
        screen.type("stty size\r")
        screen.sees(r"\d+ \d+\r\n")
    screen.type("stty size\r")
    screen.sees("40 120\r\n")
    screen.type("exit 7\r")

    assert screen.ends() == 7


def test_control_keys_are_for_the_remote_side(place: Place, sit: Sit) -> None:
    """Ctrl-C ends what runs there and not the shell, nor us; Ctrl-D ends the shell."""
    screen = sit("shell", "there")
    screen.sees("remote> ")
    screen.type("sh -c 'echo $((6*7)); exec sleep 1000'\r")
    screen.sees("42\r\n")
    screen.type("\x03")
    screen.sees("remote> ")
    screen.type("echo code $?\r")
    screen.sees("code 130\r\n")
    screen.type("true\r\x04")

    assert screen.ends() == 0
    assert len(place.gateway.commands) == 1


def test_a_command_has_the_terminal_too(place: Place, sit: Sit) -> None:
    """What comes after the hyphens is interactive as well, unless --no-tty says otherwise."""
    assert place.gateway.commands == []
    screen = sit("shell", "there", "--", "sh", "-c", "test -t 0 && read -r it && echo got $it; exit 5")
    screen.type("this\r")
    screen.sees("got this")
    assert screen.ends() == 5
    without = sit("shell", "there", "--no-tty", "--", "sh", "-c", "test -t 0 || printf 'not \\033[31mone'")
    assert "not \\x1b[31mone" in without.sees(r"not \S+one")
    assert without.ends() == 0


def test_a_connection_that_breaks_is_one_line_and_its_own_exit_code(place: Place, sit: Sit) -> None:
    """The terminal is put back, the sentence is whole, and the code is nobody else's."""
    screen = sit("shell", "there")
    screen.sees("remote> ")
    place.gateway.sever()

    assert screen.ends() == ConnectionLost.exit_code == 11
    lines = [line for line in screen.rest().splitlines() if line.strip()]
    assert lines == ["error: the connection to the container broke; what ran in it may still run"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(place: Place, sit: Sit, number: signal.Signals) -> None:
    """Whatever ends us, the modes come back, and the provider's side is let go of."""
    screen = sit("shell", "there")
    screen.sees("remote> ")
    screen.child.send_signal(number)

    assert screen.ends() == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in screen.rest()
    assert place.gateway.commands[0].ended.wait(PATIENCE)


@pytest.mark.parametrize(
    ("stdin", "command", "status", "out"),
    [
        (b"echo hello; exit 3\n", (), 3, b"hello\n"),
        (b"", (), 0, b""),
        (None, (), 0, b""),
        (bytes(range(256)) * 8192, ("cat",), 0, bytes(range(256)) * 8192),
        (b"x" * (1 << 20), ("true",), 0, b""),
        (b"unread", ("sh", "-c", "exec <&-; exit 4"), 4, b""),
        (None, ("sh", "-c", "cat; echo done"), 0, b"done\n"),
        (
            None,
            ("printf", "%s%s%s%s%s%s%s%s%s%s", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"),
            0,
            b"abcdefghij",
        ),
    ],
)
def test_what_is_piped_in_is_forwarded(
    place: Place, stdin: bytes | None, command: tuple[str, ...], status: int, out: bytes
) -> None:
    """To a shell and to a command, byte by byte, with its end; a command need not read it."""
    ran = piped("shell", "there", *(("--", *command) if command else ()), stdin=stdin)

    assert (ran.status, ran.out, ran.err) == (status, out, b"")
    assert place.gateway.commands[0].sizes == []


def gathered(client: Gateway, place: Place, *command: str, service: str = "llm") -> Ran:
    """Run a command without input."""
    parts = (bytearray(), bytearray())
    status = client.run(place.lease, service, command, lambda data, of_stderr: parts[of_stderr].extend(data))
    return Ran(status, bytes(parts[0]), bytes(parts[1]))


def test_both_outputs_are_told_apart(place: Place) -> None:
    """Without a terminal stdout and stderr stay two, and a signal's exit code is as shells have it."""
    client = place.client()
    assert gathered(client, place, "sh", "-c", "echo in; echo oh >&2; exit 3") == Ran(3, b"in\n", b"oh\n")
    assert gathered(client, place, "sh", "-c", "kill -9 $$").status == 137


def test_what_cannot_be_run_is_no_success(place: Place) -> None:
    """The gateway says so with exit code 0 and a message: that is a failure, in its words."""
    client = place.client()
    with pytest.raises(ProviderFailed, match="it does not exist"):
        gathered(client, place, "/no/such/program")
    with pytest.raises(ProviderFailed, match="no such service"):
        gathered(client, place, "true", service="worker")
    with pytest.raises(UsageError, match="empty word"):
        gathered(client, place, "printf", "", "x")


def test_a_connection_that_breaks_under_a_command_is_told(place: Place) -> None:
    """Without a terminal as with one."""
    with pytest.raises(ConnectionLost):
        place.client().run(
            place.lease, "llm", ["sh", "-c", "echo up; sleep 1000"], lambda *_: place.gateway.sever()
        )


def test_a_service_is_chosen_where_there_are_several(place: Place, tmp_path: Path) -> None:
    """`llm` or the only one by itself; a name that the SDL has not is refused before anybody is asked."""
    sdl = Path(__file__).parents[2] / "sdl" / "llamacpp-llama3.yaml"
    path = tmp_path / "sdl.yaml"

    def shell(text: str, *options: str) -> Ran:
        path.write_text(text)
        with Store(Home.find()) as store:
            store.update(store.find("there").id, sdl_path=str(path))
        return piped("shell", "there", *options, "--", "true")

    one = sdl.read_text()
    two = re.sub(r"\bllm\b", "main", one)
    assert shell(one).status == 0
    wrong = shell(one, "--service", "worker")
    assert (wrong.status, b"it has llm" in wrong.err) == (2, True)
    assert b"no such service" in shell(two).err
    assert len(place.gateway.commands) == 1


@pytest.fixture
def two(place: Place, tmp_path: Path) -> Place:
    """The same provider; `there` is a model on two nodes, so it has the services `llm` and `worker`."""
    plan = make_plan(DeployRequest(model="qwen3:8b", engine="vllm", name="there", nodes=2, gpu=("h100",)))
    sdl = render_sdl(plan)
    world = place.market.world
    world.providers[0].gpu = "h100/80Gi"
    deployed = world.create({"sdl": fill(sdl, dict.fromkeys(plan.secrets, "k" * 20))})
    world.lease(deployed.dseq, PROVIDER, deployed.manifest)
    path = tmp_path / "two.yaml"
    path.write_text(sdl)
    with Store(Home.find()) as store:
        store.update(store.find("there").id, dseq=deployed.dseq, sdl_path=str(path))
    return replace(place, dseq=deployed.dseq)


def test_a_command_runs_in_the_service_that_was_named(two: Place) -> None:
    """Of two services that run, `llm` is meant where none is named; the other one is reached by its name."""
    assert piped("shell", "there", "--", "true").status == 0
    assert piped("shell", "there", "--service", "worker", "--", "true").status == 0

    assert [command.service for command in two.gateway.commands] == ["llm", "worker"]
    wrong = piped("shell", "there", "--service", "head", "--", "true")
    assert (wrong.status, b"it has llm, worker" in wrong.err) == (2, True)


def test_who_has_several_services_and_no_usual_one_is_asked_which(two: Place, tmp_path: Path) -> None:
    """No command runs in a service that was merely guessed."""
    (tmp_path / "two.yaml").write_text(re.sub(r"\bllm\b", "main", (tmp_path / "two.yaml").read_text()))
    said = piped("shell", "there", "--", "true")

    assert (said.status, b"has several services" in said.err) == (2, True)
    assert b"--service main or worker" in said.err
    assert two.gateway.commands == []


def test_the_logs_of_two_services_are_told_apart(two: Place) -> None:
    """All lines, each with the container that wrote it; or those of one service, as they are."""
    llm, worker = (f"{name}-{two.dseq}-0" for name in ("llm", "worker"))
    both = piped("logs", "there", "--tail", "1").out.decode()
    assert both == f"{llm}  three\n{worker}  three\n"
    assert piped("logs", "there", "--service", "worker").out == b"one\ntwo\nthree\n"
    told = json.loads(piped("logs", "there", "--service", "worker", "--tail", "1", "--json").out)
    assert told["lines"] == [{"service": worker, "text": "three"}]
    wrong = piped("logs", "there", "--service", "head")
    assert (wrong.status, b"it has llm, worker" in wrong.err) == (2, True)


@pytest.mark.parametrize("what", ["logs", "events"])
def test_ctrl_c_ends_a_view_cleanly(place: Place, sit: Sit, what: str) -> None:
    """Exit code 130, a word on what goes on, and no traceback."""
    place.gateway.events = [("Normal", "Pulled", "one")]
    screen = sit(what, "there", "--follow")
    screen.sees("one\r\n")
    screen.type("\x03")

    assert screen.ends() == 130
    screen.sees("there goes on; only the view of its (log|events) has ended")
    assert "Traceback" not in screen.rest()
