"""`akashllm shell` into a container of a real Docker engine, on a terminal and on pipes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.images import DockerEngine
from akashllm.market.container import ContainerMarket
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import fill
from akashllm.state import Home, Store
from tests.images.conftest import BASE
from tests.screen import COMMAND, PATIENCE, Sit

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture
def there(
    docker_address: str, docker_engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContainerMarket]:
    """A container that is called `there`, says one word and sleeps."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", docker_address)
    home = Home.find().prepare()
    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="there", image=BASE))
    sdl = fill(render_sdl(plan), dict.fromkeys(plan.secrets, "k" * 20))
    sleeping = 'command: ["sh", "-c", "trap exit TERM; echo up; sleep 1000 & wait"]\n    env:'
    sdl = sdl.replace("env:", sleeping, 1)
    market = ContainerMarket(home.containers)
    created = market.create(sdl, reference="there")
    (bid,) = market.bids(created.dseq)
    market.lease(created.dseq, bid, created.manifest or "")
    with Store(home) as store:
        row = store.add("there", "docker", {"engine": "llamacpp"}, "done")
        store.update(row.id, state="active", dseq=created.dseq)
    yield market
    market.close(created.dseq)
    assert not list(docker_engine.api.containers(all=True, filters={"label": f"akashllm.dseq={created.dseq}"}))


@pytest.mark.usefixtures("there")
def test_a_shell_is_a_terminal_inside(sit: Sit) -> None:
    """Keys, sizes, Ctrl-C and the exit code; the prompt is the container's, not this machine's."""
    screen = sit("shell", "there")
    screen.size(91, 33)
    screen.sees(r"\$ ")
    assert screen.raw()
    screen.type("sh -c 'echo $((6*7)); exec sleep 1000'\r")
    screen.sees("42\r\n")
    screen.type("\x03")
    screen.sees(r"\$ ")
    screen.size(120, 40)
    screen.type("until stty size | grep '40 120'; do :; done; id -u\r")
    screen.sees("40 120\r\n[1-9]")
    screen.type("exit 7\r")

    assert screen.ends() == 7


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("stdin", "command", "status", "out"),
    [
        (b"echo hello; exit 3\n", (), 3, b"hello\n"),
        (bytes(range(256)) * 8192, ("cat",), 0, bytes(range(256)) * 8192),
        (b"x" * (1 << 20), ("true",), 0, b""),
        (None, ("sh", "-c", "cat; echo done"), 0, b"done\n"),
    ],
)
def test_what_is_piped_in_is_forwarded(
    stdin: bytes | None, command: tuple[str, ...], status: int, out: bytes
) -> None:
    """To a shell and to a command, with its end."""
    done = subprocess.run(
        [*COMMAND, "shell", "there", *(("--", *command) if command else ())],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (status, out, b"")


def test_a_container_that_is_killed_breaks_the_connection(
    there: ContainerMarket, docker_engine: DockerEngine, sit: Sit
) -> None:
    """A sentence and an exit code that is not 0; the terminal is as it was. One that is gone is said so."""
    (held,) = there.holdings()
    (container,) = docker_engine.api.containers(filters={"label": f"akashllm.dseq={held.dseq}"})
    screen = sit("shell", "there")
    screen.sees(r"\$ ")
    docker_engine.api.stop(container["Id"], timeout=5)

    assert screen.ends() in {11, 137}
    again = sit("shell", "there")
    assert again.ends() == 5
    again.sees("does not run")


@pytest.mark.usefixtures("there")
def test_ctrl_c_ends_a_log_cleanly(sit: Sit) -> None:
    """Exit code 130, a word on what goes on, and no traceback."""
    screen = sit("logs", "there", "--follow")
    screen.sees("up\r\n")
    screen.type("\x03")

    assert screen.ends() == 130
    screen.sees("there goes on; only the view of its log has ended")
    assert "Traceback" not in screen.rest()
