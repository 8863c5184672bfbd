"""The record: private, one open deployment a name, never mistaken and never silently lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.errors import BadName, NoSuchDeployment, StateError
from akashllm.state import Home, Store
from akashllm.state.private import read_private, write_private
from akashllm.state.schema import MIGRATIONS, migrate


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that does not exist yet."""
    return Home(tmp_path / "state")


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """An empty record."""
    with Store(home) as store:
        yield store


def plan(**more: object) -> dict[str, object]:
    """The little of a plan that the record looks at."""
    return {"engine": "llamacpp", "model": {"alias": "tiny"}, **more}


def test_the_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AKASHLLM_HOME wins over XDG_STATE_HOME, which wins over the home directory if it is absolute."""
    assert Home.find({"AKASHLLM_HOME": "/a", "XDG_STATE_HOME": "/b"}).root == Path("/a")
    assert Home.find({"XDG_STATE_HOME": "/b"}).root == Path("/b/akashllm")
    monkeypatch.setenv("HOME", str(tmp_path))
    for environ in ({}, {"XDG_STATE_HOME": "relative"}):
        assert Home.find(environ).root == tmp_path / ".local/state/akashllm"


def test_everything_is_private_from_the_start(home: Home) -> None:
    """Whatever the umask, the directory is 0700 and each file in it 0600."""
    before = os.umask(0)
    try:
        with Store(home) as store:
            store.add("one", "local", plan(), "plan")
            modes = {path: path.stat().st_mode & 0o777 for path in home.root.rglob("*")}
    finally:
        os.umask(before)

    assert home.root.stat().st_mode & 0o777 == 0o700
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_deployment_survives_the_process(home: Home, store: Store) -> None:
    """What one process wrote another reads."""
    row = store.add("one", "local", plan(context=7), "plan")
    store.record(row.id, "create", "after", {"x": 1}, dseq="123", facts={"bid": {"amount": "1"}}, step="bids")

    with Store(home) as other:
        found = other.find("one")

        assert (found.dseq, found.step, found.plan["context"], found.model) == ("123", "bids", 7, "tiny")
        assert found.facts == {"bid": {"amount": "1"}}
        assert [(e.step, e.phase, e.detail) for e in other.events(found.id)] == [("create", "after", {"x": 1})]


def test_a_name_has_one_open_deployment(store: Store) -> None:
    """A name is free again only after its deployment was closed, and then gets a directory of its own."""
    first = store.add("one", "local", plan(), "plan")
    with pytest.raises(StateError, match="already"):
        store.add("one", "local", plan(), "plan")

    store.update(first.id, state="closed")
    second = store.add("one", "local", plan(), "plan")

    assert store.named("one") == second
    assert store.home.directory("one", first.id) != store.home.directory("one", second.id)
    assert store.get(first.id).closed_at


def test_deployments_are_found_by_name_number_and_beginning(store: Store) -> None:
    """A word means an exact name, then a number, then the one that begins with it; never one of several."""
    one = store.add("llama", "local", plan(), "plan")
    two = store.add("llama-two", "local", plan(), "plan")
    store.update(two.id, dseq="17000")

    assert store.find("llama").id == one.id
    assert store.find("17000").id == two.id
    assert store.find("llama-").id == two.id
    assert store.find("170").id == two.id
    for word, message in (("ll", "2 deployments"), ("x", "no deployment"), ("", "no deployment")):
        with pytest.raises(NoSuchDeployment, match=message) as caught:
            store.find(word)
        assert caught.value.hint
    store.update(one.id, state="closed")
    assert store.find("llama").id == two.id
    store.update(two.id, state="closed")
    with pytest.raises(NoSuchDeployment):
        store.find("llama")
    assert store.find("llama", closed=True).id == one.id


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-a", "A", "a" * 65, "a\n", "ä"])
def test_a_name_that_is_no_file_name_is_refused(store: Store, name: str) -> None:
    """A name never leads out of the home."""
    with pytest.raises(BadName):
        store.add(name, "local", plan(), "plan")
    with pytest.raises(BadName), store.home.lock(name):
        pass


def test_a_file_of_a_newer_version_is_left_alone(home: Home) -> None:
    """A record that a newer version wrote is refused and not changed."""
    with Store(home):
        pass
    with sqlite3.connect(home.database) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    before = home.database.read_bytes()

    with pytest.raises(StateError, match="newer akashllm") as caught:
        Store(home)

    assert "upgrade" in caught.value.hint
    assert home.database.read_bytes() == before


def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    """Each missing step is made once and in order; what was there stays."""
    path = tmp_path / "old.db"
    steps = [*MIGRATIONS, ["CREATE TABLE later (x INTEGER)", "INSERT INTO later VALUES (1)"]]
    database = sqlite3.connect(path, isolation_level=None)
    try:
        migrate(database, str(path))
        database.execute(
            "INSERT INTO deployments (name, market, reference, state, step, plan, created_at, updated_at)"
            " VALUES ('a', 'local', 'r', 'active', 'done', '{}', 't', 't')"
        )
        migrate(database, str(path), steps)
        migrate(database, str(path), steps)

        assert database.execute("SELECT count(*) FROM later").fetchone() == (1,)
        assert database.execute("SELECT name FROM deployments").fetchall() == [("a",)]
    finally:
        database.close()


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    """A migration that breaks in the middle leaves the version and the tables of before."""
    database = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    try:
        migrate(database, "x")
        with pytest.raises(sqlite3.OperationalError):
            migrate(database, "x", [*MIGRATIONS, ["CREATE TABLE later (x INTEGER)", "NO SQL"]])

        assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'later'").fetchone() == (0,)
    finally:
        database.close()


def spoil(home: Home, how: str, elsewhere: Path) -> None:
    """Bring the home into a state that must be refused."""
    home.prepare()
    path = home.database
    match how:
        case "corrupt":
            path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
            path.chmod(0o600)
        case "foreign":
            path.touch(0o600)
            database = sqlite3.connect(path)
            database.execute("CREATE TABLE theirs (x)")
            database.close()
        case "readable file":
            path.touch()
            path.chmod(0o644)
        case "readable directory":
            home.root.chmod(0o755)
        case "link":
            (elsewhere / "real.db").touch(0o600)
            path.symlink_to(elsewhere / "real.db")
        case "directory link":
            home.root.rmdir()
            (elsewhere / "real").mkdir(0o700)
            home.root.symlink_to(elsewhere / "real")
        case "directory for a file":
            path.mkdir(0o700)
        case "file for a directory":
            home.root.rmdir()
            home.root.touch()


@pytest.mark.parametrize(
    ("how", "message", "hint"),
    [
        ("corrupt", "damaged", "move it away"),
        ("foreign", "another program", "move it away"),
        ("readable file", "other users", "chmod 600"),
        ("readable directory", "other users", "chmod 700"),
        ("link", "symbolic link", "remove the link"),
        ("directory link", "symbolic link", "remove the link"),
        ("directory for a file", "no plain file", "move it away"),
        ("file for a directory", "no directory", "move it away"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_refused_with_a_way_out(
    home: Home, tmp_path: Path, how: str, message: str, hint: str
) -> None:
    """Damaged, another's, readable by others, or a link: refused, with the command that helps."""
    spoil(home, how, tmp_path)

    with pytest.raises(StateError, match=message) as caught:
        Store(home)

    assert hint in caught.value.hint


def test_an_empty_file_is_a_new_record(home: Home) -> None:
    """A file of no bytes, as a full disk leaves one, becomes a record."""
    home.prepare().database.touch(0o600)

    with Store(home) as store:
        assert store.all() == []


def test_a_lock_is_held_against_other_processes_and_ends_with_them(home: Home) -> None:
    """A second process does not get the name; when the first is killed it does."""
    program = (
        "import sys, pathlib; from akashllm.state import Home\n"
        "with Home(pathlib.Path(sys.argv[1])).lock('one'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with home.lock("one", wait=False) as held:
            assert not held
        with home.lock("two", wait=False) as held:
            assert held
        other.kill()
    with home.lock("one", wait=False) as held:
        assert held


def test_private_files_are_replaced_whole_and_links_not_read(tmp_path: Path) -> None:
    """A secret's file is 0600, replaced as a whole, and refused when it is a link or open to others."""
    path = tmp_path / "key"
    write_private(path, "one")
    write_private(path, "two")
    assert read_private(path) == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]

    (tmp_path / "link").symlink_to(path)
    path.chmod(0o640)
    for wrong in (path, tmp_path / "link", tmp_path / "missing"):
        with pytest.raises(StateError):
            read_private(wrong)
