"""`update` and `key` from the command line, on a wallet whose provider really runs what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from akashllm.state import Home, Store
from akashllm.testing.wallet import FakeCommand
from tests.cli.conftest import Run
from tests.wallet.test_cli import DEPLOY, SETTINGS, command, here

__all__ = ["command", "here"]

NAME = "tiny-llamacpp"


def status(url: str, key: str) -> int:
    """What the service answers to a key."""
    return requests.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10).status_code


@pytest.mark.engine
def test_what_runs_is_changed_rotated_and_moved(here: Run, command: FakeCommand) -> None:
    """In place with another setting, with another key, and under another lease; each ends verified."""
    first = here(*DEPLOY, *SETTINGS, "--json").document
    (dseq,) = command.world.open()

    shown = here("update", NAME, "--env", "AKASHLLM_QUEUE=7", "--dry-run", "--json").document
    assert shown["in_place"] == ["llm: AKASHLLM_QUEUE is new"]
    assert shown["state"] == "shown"
    said = here("update", NAME, "--env", "AKASHLLM_QUEUE=7", "--yes", "--json")
    assert said.code == 0, said.err
    assert (said.document["state"], said.document["smoke"]["ok"]) == ("ready", True)
    assert (said.document["dseq"], command.world.open()) == (dseq, {dseq})
    url, old = said.document["url"], first["api_key"]
    health = requests.get(f"{url}/health", timeout=10).json()
    assert len(health["revision"]) == 12
    queue = requests.get(url, headers={"Accept": "application/json"}, timeout=10)
    assert queue.json()["queue"]["limit"] == 7
    again = here("update", NAME, "--env", "AKASHLLM_QUEUE=7", "--yes", "--json").document
    assert again["state"] == "unchanged"

    rotated = here("key", NAME, "--rotate", "--yes", "--json")
    assert rotated.code == 0, rotated.err
    new = rotated.document["api_key"]
    assert new != old
    assert (status(url, new), status(url, old)) == (200, 401)
    assert here("key", NAME).out.strip() == new
    where = Path(here("key", NAME, "--where").out.strip())
    assert (where.read_text().strip(), where.stat().st_mode & 0o777) == (new, 0o600)

    moved = here("update", NAME, "--max-price", "0.5", "--bid-wait", "0", "--yes", "--json")
    assert moved.code == 0, moved.err
    assert any("highest price" in line for line in moved.document["new_lease"])
    assert command.world.open() == {moved.document["dseq"]} != {dseq}
    assert status(moved.document["url"], new) == 200
    (row,) = here("list", "--json").document["deployments"]
    assert (row["name"], row["state"], row["dseq"]) == (NAME, "ready", moved.document["dseq"])
    assert here("close", NAME, "--yes").code == 0
    assert (command.world.open(), float(command.world.balance)) == (set(), 100.0)


def record(here: Run) -> str:
    """A deployment in the record, without anything running."""
    home = Home.find()
    from akashllm.plan import DeployRequest
    from akashllm.planning import make_plan
    from akashllm.render import render_sdl
    from akashllm.state.private import write_private

    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name=NAME, local=True))
    with Store(home) as store:
        row = store.add(NAME, "local", plan.as_dict(), "done")
        path = home.directory(row.name, row.id) / "deploy.yaml"
        write_private(path, render_sdl(plan))
        write_private(path.with_name("api-key"), "ak-old\n")
        store.update(row.id, state="active", dseq="1", sdl_path=str(path))
    return str(path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--env", "NOVALUE"), 2, "NAME=VALUE"),
        (("--env", "AKASHLLM_API_KEY=x"), 2, "is a secret"),
        (("--env", "HF_TOKEN=x"), 2, "is a secret"),
        (("{file}", "--image", "me/x:1"), 2, "contradict"),
        (("/nonexistent.yaml",), 2, "cannot be read"),
        (("--engine", "nonesuch"), 2, "no engine"),
        (("--env", "A=b"), 2, "Nobody is there to answer"),
        (("--env", "A=b", "--yes"), 2, "has ended"),
    ],
)
def test_what_cannot_be_changed_is_a_sentence(here: Run, words: tuple[str, ...], code: int, said: str) -> None:
    """Secrets in arguments, files that are none, questions that nobody answers, what no longer runs."""
    file = record(here)
    result = here("update", NAME, *(word.format(file=file) for word in words), "--json")

    assert result.code == code, result.err
    assert said in result.error["message"]


def test_the_difference_is_shown_before_anything_is_asked(here: Run) -> None:
    """A unified diff on stdout, what it means on stderr; nothing is done."""
    record(here)
    result = here("update", NAME, "--env", "AKASHLLM_QUEUE=7", "--env", "AKASHLLM_CONTEXT=", "--dry-run")

    assert result.code == 0
    assert '+      - "AKASHLLM_QUEUE=7"' in result.out.splitlines()
    assert any(line.startswith('-      - "AKASHLLM_CONTEXT=') for line in result.out.splitlines())
    assert "in place   llm: AKASHLLM_QUEUE is new" in result.err


def test_nothing_to_change_is_no_failure(here: Run) -> None:
    """The same SDL again: said, with exit code 0."""
    file = record(here)
    result = here("update", NAME, file, "--json")

    assert (result.code, result.document["state"]) == (0, "unchanged")


def test_an_unfinished_exchange_of_a_key_is_said(here: Run) -> None:
    """Whoever asks for the key learns that another may be in force."""
    path = Path(record(here))
    path.with_name("api-key.next").write_text("ak-new\n")
    result = here("key", NAME)

    assert result.out.strip() == "ak-old"
    assert "--rotate` ends it" in result.err
