"""The command line with a wallet: a real process for each call of Akash's command, a real smoke test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.market import wallet, wallet_tx
from akashllm.market.wallet_journal import Account, Orders
from akashllm.state import Home
from akashllm.testing.images import pretend_pushed
from akashllm.testing.market import LocalRunner, World
from akashllm.testing.wallet import FakeCommand, installed
from tests.cli.conftest import Run, caller
from tests.market.conftest import QUICK

from .conftest import ENVIRON, provider

DEPLOY = ("deploy", "--market", "wallet", "--from", "mine", "--bid-wait", "0", "--yes")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCommand]:
    """On the path, with a provider that runs manifests on this machine."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(wallet, "BLOCK", 0.01)
    monkeypatch.setattr(wallet_tx, "BLOCK", 0.01)
    pretend_pushed(Home.find())
    good = provider("akash1good", price="6", runner=LocalRunner(tmp_path / "provider", policy=QUICK))
    fake = FakeCommand(World(providers=[good]))
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    with installed(directory, fake):
        yield fake
    fake.world.clear()


@pytest.fixture
def here(command: FakeCommand, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    return caller(capsys)


SETTINGS = (
    *("--node", ENVIRON["AKASH_NODE"], "--chain-id", ENVIRON["AKASH_CHAIN_ID"]),
    *("--keyring-backend", ENVIRON["AKASH_KEYRING_BACKEND"]),
)


@pytest.mark.engine
def test_one_command_ends_in_a_verified_url_and_every_other_command_works_on_it(
    here: Run, command: FakeCommand
) -> None:
    """Settings given once are remembered; list, status, logs, events, shell and close need none of them."""
    said = here(*DEPLOY, *SETTINGS, "--deposit", "2", "--json")

    assert said.code == 0, said.err
    assert said.document["smoke"]["ok"], said.document["smoke"]
    assert "mine (akash1" in said.err
    assert "puts $2.00 into escrow" in said.err
    (dseq,) = command.world.open()
    assert command.world.get(dseq).escrow == 2

    (listed,) = here("list", "--json").document["deployments"]
    assert (listed["state"], listed["market"], listed["dseq"]) == ("ready", "wallet", dseq)
    name = said.document["name"]
    assert "lasts" in here("status", name).out
    assert here("logs", name, "--tail", "1").code == 0
    assert here("events", name, "--json").document["events"] == []
    ran = here("shell", name, "--json", "--", "printf", "hello")
    assert (ran.code, ran.document["out"]) == (0, "hello")
    again = here(*DEPLOY, "--json")
    assert (again.code, again.document["already_running"]) == (0, True)

    assert here("close", name, "--yes").code == 0
    assert command.world.open() == set()
    assert command.world.balance == 100


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--from", "nobody"), 6, "not a valid name"),
        (("--max-hours", "2"), 2, "closes nothing by the clock"),
        (("--deposit", "0.1"), 2, "deposit"),
    ],
)
def test_what_cannot_be_signed_is_a_sentence_and_a_code(
    here: Run, command: FakeCommand, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """A key that is not there, a limit that the chain has not, an escrow that is too small."""
    said = here(*DEPLOY, *SETTINGS, *arguments, "--json")

    assert said.code == code, said.err
    assert words in said.error["message"]
    assert command.world.created == 0


def test_a_list_goes_on_without_the_command(
    here: Run, command: FakeCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Akash's command is gone the list says that it could not ask, and shows what it knows."""
    home = Home.find()
    Orders(home.root / "wallet").use(Account(key="mine", address="akash1x", chain="akashnet-2"))
    monkeypatch.setenv("PATH", "/nonexistent")
    said = here("list", "--json")

    assert said.code == 0
    assert "neither provider-services nor akt" in said.document["not_asked"][0]
