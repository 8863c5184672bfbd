"""`akashllm shell` through Akash's own command: the terminal is lent to it, what is piped in goes through."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.market.order import Order
from akashllm.state import Store
from akashllm.testing.wallet import installed
from tests.market.deploying import deployer
from tests.screen import COMMAND, PATIENCE, Sit

from .conftest import ENVIRON, Place


@pytest.fixture
def there(place: Place, order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a deployment that runs, with the command on the path."""
    for name in list(os.environ):
        if name.startswith(("AKASH_", "AKASHLLM_")):
            monkeypatch.delenv(name)
    for name, value in {**ENVIRON, "AKASHLLM_HOME": str(place.home.root), "PS1": "remote> "}.items():
        monkeypatch.setenv(name, value)
    place.command.told = (("Normal", "Pulled", "one"),)
    with Store(place.home) as store, installed(tmp_path, place.command) as path:
        monkeypatch.setenv("AKASHLLM_AKASH_CLI", str(path))
        yield deployer(store, place.wallet()).deploy(order).deployment.name


def test_the_terminal_is_lent_to_the_command(there: str, sit: Sit) -> None:
    """A shell with a terminal inside; Ctrl-C is for it; its exit code, which is a sentence, is ours."""
    screen = sit("shell", there)
    screen.sees("remote> ")
    screen.type("test -t 0 && sh -c 'echo $((6*7)); exec sleep 1000'\r")
    screen.sees("42\r\n")
    screen.type("\x03")
    screen.sees("remote> ")
    screen.type("exit 7\r")

    assert screen.ends() == 7


def test_a_command_that_dies_leaves_the_terminal_as_it_was(there: str, sit: Sit) -> None:
    """Even one that is killed and cannot put it back."""
    screen = sit("shell", there)
    screen.sees("remote> ")
    assert screen.raw()
    children = Path(f"/proc/{screen.child.pid}/task/{screen.child.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)

    assert screen.ends() == 10
    assert "could not be run" in screen.rest()


@pytest.mark.parametrize(
    ("stdin", "command", "status", "out"),
    [
        (b"echo hello; exit 3\n", (), 3, b"hello\n"),
        (b"", (), 0, b""),
        (bytes(range(256)) * 1024, ("cat",), 0, bytes(range(256)) * 1024),
        (b"x" * (1 << 18), ("true",), 0, b""),
        (None, ("sh", "-c", "cat; echo done"), 0, b"done\n"),
    ],
)
def test_what_is_piped_in_goes_through_the_command(
    there: str, stdin: bytes | None, command: tuple[str, ...], status: int, out: bytes
) -> None:
    """With its end, which the command's client would take for a failure."""
    done = subprocess.run(
        [*COMMAND, "shell", there, *(("--", *command) if command else ())],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (status, out, b"")


@pytest.mark.parametrize("what", ["logs", "events"])
def test_ctrl_c_ends_a_view_cleanly(there: str, sit: Sit, what: str) -> None:
    """Exit code 130, nothing of the command is left, and no traceback."""
    screen = sit(what, there, "--follow")
    screen.sees("on paper|Pulled: one")
    screen.type("\x03")

    assert screen.ends() == 130
    screen.sees("goes on; only the view of its (log|events) has ended")
    assert "Traceback" not in screen.rest()
