"""The model store: Ollama's layout read, changed, kept whole and left alone."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from akashllm.digests import Sha256, VerifiedWriter
from akashllm.errors import Busy, ModelNotFound, StoreFailed
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.models.manifest import MAX_MANIFEST, MODEL, Manifest
from akashllm.server.models.store import HOUR, WEEK, ModelStore
from tests.store.build import blob, files, model

LATEST = "manifests/registry.ollama.ai/library/{}/latest"


def name(text: str) -> ModelName:
    """A model's name."""
    return ModelName.parse(text)


@pytest.fixture
def store(root: Path) -> ModelStore:
    """A store over it."""
    return ModelStore(root)


def age(path: Path, seconds: float) -> None:
    """Let a file be that old."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_model_of_ollamas_is_read_whole(root: Path, store: ModelStore) -> None:
    """A folder as Ollama leaves it is a store: weights, template, system, parameters, messages, licences."""
    manifest = model(
        root,
        "me/Tiny:Q8",
        template="{{ .Prompt }}",
        system="Be brief.",
        params={"stop": ["<a>", "<b>"], "temperature": 0.5},
        messages=[{"role": "user", "content": "hi"}],
        license="MIT",
    )

    found = store.get(name("ME/tiny:q8"))

    assert found.weights.read_bytes() == TINY.read_bytes()
    assert found.digest == Sha256.of(manifest.encode()).hex
    assert found.size == manifest.size
    assert (found.template, found.system) == ("{{ .Prompt }}", "Be brief.")
    assert found.parameters == {"stop": ("<a>", "<b>"), "temperature": 0.5}
    assert found.messages == (("user", "hi"),)
    assert found.licenses == ("MIT",)
    assert found.config["model_family"] == "llama"


def test_the_newest_is_listed_first(root: Path, store: ModelStore) -> None:
    """Models are listed by the time of their manifest, newest first; a folder that does not exist has none."""
    assert store.list() == []
    for index, each in enumerate(("a", "b", "c")):
        model(root, each)
        age(root / LATEST.format(each), 100 - index * 10)

    assert [str(found.name) for found in store.list()] == ["c:latest", "b:latest", "a:latest"]


def test_a_changed_model_is_read_again(root: Path, store: ModelStore) -> None:
    """What is remembered of a manifest holds for that manifest only, while its weights are there whole."""
    model(root, "a", system="one")
    assert store.get(name("a")).system == "one"
    model(root, "a", system="other")
    assert store.get(name("a")).system == "other"
    weights = store.get(name("a")).weights

    os.truncate(weights, 1000)

    with pytest.raises(StoreFailed, match="has 1000 bytes instead of"):
        store.get(name("a"))
    weights.unlink()
    with pytest.raises(StoreFailed, match="is missing"):
        store.get(name("a"))


DAMAGE = {
    "not JSON": b"{",
    "nothing": b"",
    "no layers": b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:'
    + b"0" * 64
    + b'","size":1}}',
    "a list": b"[]",
    "binary": b"\xff\xfe\x00" * 100,
    "deep": b"[" * 100_000,
    "a digest that climbs": (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../../../etc/passwd","size":1},"layers":[]}'
    ),
    "no weights": b"",
    "1 GB": b"x" * (MAX_MANIFEST + 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_harms_only_itself(
    damage: str, root: Path, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out with one line in the log; asking for it says why and what to do; it can be deleted."""
    model(root, "good")
    manifest = model(root, "bad", system="x")
    data = DAMAGE[damage]
    if damage == "no weights":
        data = Manifest(config=manifest.config, layers=manifest.layers[1:]).encode()
    (root / LATEST.format("bad")).write_bytes(data)

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [str(found.name) for found in store.list()] == ["good:latest"]

    assert len(caplog.records) == 1
    assert "library/bad/latest of the model store is left out" in caplog.text
    with pytest.raises(StoreFailed, match=r"'bad:latest' cannot be used: .*; delete it, or pull it again"):
        store.get(name("bad"))
    store.delete(name("bad"))
    assert not (root / LATEST.format("bad")).exists()
    assert store.get(name("good")).weights.is_file()


def test_a_cut_or_changed_layer_is_noticed(root: Path, store: ModelStore) -> None:
    """Weights of another size, or a system prompt with one letter changed, are never served."""
    manifest = model(root, "a", system="Be kind.")
    weights, system = (root / "blobs" / layer.sha256.filename for layer in manifest.layers)
    system.write_text("Be mean.")
    with pytest.raises(StoreFailed, match="was changed"):
        store.get(name("a"))
    system.write_text("Be kind.")
    os.truncate(weights, 1000)
    with pytest.raises(StoreFailed, match="1000 bytes instead of"):
        store.get(name("a"))


@pytest.mark.parametrize("link", ["manifest", "blob", "folder"])
def test_links_out_of_the_store_lead_nowhere(link: str, root: Path, store: ModelStore, tmp_path: Path) -> None:
    """A manifest, a blob or a folder that is a link to somewhere else is refused, and said to be one."""
    manifest = model(root, "a")
    outside = tmp_path / "outside"
    path = {
        "manifest": root / LATEST.format("a"),
        "blob": root / "blobs" / manifest.layers[0].sha256.filename,
        "folder": root / "manifests/registry.ollama.ai/library",
    }[link]
    path.rename(outside)
    path.symlink_to(outside)

    assert store.list() == []
    with pytest.raises(StoreFailed, match="a link that leads out of it"):
        store.get(name("a"))
    if link == "folder":
        with pytest.raises(StoreFailed, match="a link that leads out of it"):
            store.link(name("b"), manifest.encode())
        assert not (outside / "b").exists()


def test_a_link_within_the_store_is_followed(root: Path, store: ModelStore) -> None:
    """A link to another file of the store is as good as the file."""
    model(root, "a")
    (root / LATEST.format("b")).parent.mkdir()
    (root / LATEST.format("b")).symlink_to(root / LATEST.format("a"))

    assert {str(found.name) for found in store.list()} == {"a:latest", "b:latest"}


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """Where the store is mounted through a link, it is the store that counts."""
    model(root, "a")
    (tmp_path / "link").symlink_to(root)

    assert ModelStore(tmp_path / "link").get(name("a")).weights.is_file()


def test_copy_and_delete_share_the_files(root: Path, store: ModelStore) -> None:
    """A copy costs a manifest; files go with the last model that uses them, empty folders with the model."""
    manifest = model(root, "a", system="x")
    store.copy(name("A"), name("me/b"))
    store.delete(name("a"))
    assert store.get(name("me/b")).system == "x"
    assert not (root / "manifests/registry.ollama.ai/library").exists()

    store.delete(name("ME/B:Latest"))

    assert files(root) == set()
    assert manifest.layers
    with pytest.raises(ModelNotFound):
        store.delete(name("a"))
    with pytest.raises(ModelNotFound):
        store.copy(name("a"), name("b"))


def test_another_case_finds_the_model_as_it_is_stored(root: Path, store: ModelStore) -> None:
    """Who asks in another case gets the model under its own name, and what others see listed stays."""
    model(root, "small")

    assert str(store.get(name("SMALL")).name) == "small:latest"
    assert [str(found.name) for found in store.list()] == ["small:latest"]


def test_another_case_replaces_the_model(root: Path, store: ModelStore) -> None:
    """There are never two models whose names differ in case only: the second write takes the first's place."""
    model(root, "Me/Tiny:Q8", system="old")
    model(root, "other", system="new")

    store.copy(name("other"), name("ME/TINY:q8"))
    store.copy(name("other"), name("ME/TINY:q4"))

    assert store.get(name("me/tiny:q8")).system == "new"
    assert (root / "manifests/registry.ollama.ai/Me/Tiny/q4").is_file()
    assert len(store.list()) == 3


def test_a_manifest_needs_all_its_files(root: Path, store: ModelStore) -> None:
    """A model is not written while one of its files is missing or cut, and what had the name keeps it."""
    manifest = model(root, "a")
    before = (root / LATEST.format("a")).read_bytes()
    other = blob(root, b"other weights", MODEL)
    data = Manifest(config=manifest.config, layers=[other]).encode()
    os.truncate(root / "blobs" / other.sha256.filename, 3)

    with pytest.raises(StoreFailed, match="has gone from the store meanwhile"):
        store.link(name("a"), data)

    assert (root / LATEST.format("a")).read_bytes() == before


def test_replacing_a_model_removes_what_only_it_used(root: Path, store: ModelStore) -> None:
    """The old weights go with the old manifest, unless another model or a running pull needs them."""
    old = model(root, "a", b"old weights")
    new = model(root, "b", b"new weights")
    shared = old.config

    with store.keeping([old.layers[0].sha256]):
        assert store.link(name("a"), new.encode()) == 0
    model(root, "a", b"old weights")

    assert store.link(name("a"), new.encode()) == 1
    assert store.blob(old.layers[0].sha256) is None
    assert store.blob(shared.sha256) is not None


def test_prune_takes_only_what_is_old_and_unused(root: Path, store: ModelStore) -> None:
    """Files of models stay, even of damaged ones and strangers, new ones, this week's downloads."""
    assert store.prune() == 0
    manifest = model(root, "a")
    damaged = blob(root, b"of a damaged model", MODEL)
    stranger = root / "manifests/registry.example.org/x/y/latest"
    stranger.parent.mkdir(parents=True)
    stranger.write_text(f'{{"broken": "{damaged.digest}"')
    unused, fresh = blob(root, b"unused", MODEL), blob(root, b"fresh", MODEL)
    partial = root / "blobs" / f".sha256-{'1' * 64}.partial"
    stale = root / "blobs" / f".sha256-{'2' * 64}.partial"
    temporary = root / "blobs" / f".sha256-{'3' * 64}.abcd"
    foreign = root / "blobs" / "notes.txt"
    for path in (partial, stale, temporary, foreign):
        path.write_bytes(b"x")
    for path in (root / "blobs").iterdir():
        age(path, 2 * HOUR)
    age(stale, WEEK + 60)
    age(root / "blobs" / fresh.sha256.filename, 60)

    assert store.prune() == 3

    left = {path.name for path in (root / "blobs").iterdir()}
    assert left == {
        *(layer.sha256.filename for layer in manifest.files),
        damaged.sha256.filename,
        fresh.sha256.filename,
        partial.name,
        foreign.name,
    }
    assert unused.sha256.filename not in left


def test_asking_for_a_file_protects_it(root: Path, store: ModelStore) -> None:
    """Who asks whether a file is there may use it in the hour that follows."""
    layer = blob(root, b"uploaded last week", MODEL)
    age(root / "blobs" / layer.sha256.filename, WEEK)

    assert store.blob(layer.sha256) is not None

    assert store.prune() == 0


def _copy_often(root: str, number: int) -> None:
    store = ModelStore(Path(root))
    for turn in range(20):
        mine = ModelName(f"copy{number}-{turn % 3}")
        store.copy(ModelName("a"), mine)
        store.copy(ModelName("a"), ModelName("shared"))
        store.prune(0)
        store.delete(mine)


def test_processes_do_not_harm_each_other(root: Path, store: ModelStore) -> None:
    """Four processes that copy, prune and delete at once leave exactly the right models, whole."""
    model(root, "a", system="x")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_copy_often, args=(str(root), number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * 4

    assert {str(found.name) for found in store.list()} == {"a:latest", "shared:latest"}


def test_threads_do_not_harm_each_other(root: Path, store: ModelStore) -> None:
    """Requests in threads that put, link and delete models with shared files leave a whole store."""
    base = model(root, "a", system="x")

    def turn(number: int) -> None:
        layer = store.put(f"system {number % 3}".encode(), "application/vnd.ollama.image.system")
        with store.keeping([layer.sha256]):
            store.put(f"system {number % 3}".encode(), "application/vnd.ollama.image.system")
            data = Manifest(config=base.config, layers=[base.layers[0], layer]).encode()
            store.link(ModelName(f"m{number}"), data)
        store.get(ModelName(f"m{number}"))
        store.delete(ModelName(f"m{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(turn, range(60)))

    assert [str(found.name) for found in store.list()] == ["a:latest"]
    assert len(list((root / "blobs").iterdir())) == 3


def _full(*_args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_behind(
    root: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that finds no space is said to be one, and no file has a name or a remnant afterwards."""
    model(root, "a")
    before = files(root)
    digest = Sha256.of(b"data")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", _full)
        with pytest.raises(StoreFailed, match="the disk of the model store is full"):
            store.put(b"data", MODEL)
        with pytest.raises(StoreFailed, match="full"):
            store.copy(name("a"), name("b"))

    assert files(root) == before
    assert store.blob(digest) is None


SMALL = 256 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    """On a real disk without space the same holds, and there is room again once something is deleted."""
    store = ModelStore(small_disk / "models")
    model(small_disk / "models", "a", b"x" * 200_000)
    with pytest.raises(StoreFailed, match="full"):
        store.put(b"y" * 100_000, MODEL)
    assert [path.name for path in store.layout.blobs.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(StoreFailed, match="are needed"):
        store.volume.need(100_000)

    store.delete(name("a"))

    assert store.put(b"y" * 100_000, MODEL).size == 100_000


def test_a_closed_folder_hides_only_itself(
    root: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of models that cannot be looked into is left out with a line, and then nothing is pruned."""
    model(root, "a")
    model(root, "them/b", b"their weights")
    for path in (root / "blobs").iterdir():
        age(path, WEEK)
    real = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "them":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)

    assert [str(found.name) for found in store.list()] == ["a:latest"]
    assert "registry.ollama.ai/them of the model store is left out" in caplog.text
    with pytest.raises(StoreFailed, match="does not let user"):
        store.prune()
    monkeypatch.undo()
    assert store.get(name("them/b")).weights.read_bytes() == b"their weights"


def test_who_waits_for_another_process_gives_up(root: Path, store: ModelStore) -> None:
    """A store that another process keeps changing is busy, not stuck."""
    model(root, "a")
    other = ModelStore(root)

    with other.volume.locked(), pytest.raises(Busy, match="being changed by another process"):
        store.prune(patience=0.05)


OTHERS = """
import os, sys
from pathlib import Path
from akashllm.errors import StoreFailed
from akashllm.names import ModelName
from akashllm.server.models.store import ModelStore

os.setuid(54321)
store = ModelStore(Path(sys.argv[1]))
assert [str(model.name) for model in store.list()] == ["a:latest"]
assert store.get(ModelName("a")).weights.read_bytes()
actions = [
    lambda: store.copy(ModelName("a"), ModelName("b")),
    lambda: store.delete(ModelName("a")),
    lambda: store.put(b"data", "application/vnd.ollama.image.system"),
    lambda: store.prune(),
]
for action in actions:
    try:
        action()
    except StoreFailed as error:
        print(error.message)
"""


def test_a_volume_of_another_user_is_served(root: Path, tmp_path: Path) -> None:
    """Without the right to write, models are listed and read, and every change says whose the folder is."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    model(root, "a")
    for path in [*tmp_path.parents, tmp_path]:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    before = files(root)

    done = subprocess.run(
        [sys.executable, "-c", OTHERS, str(root)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert set(said) == {"the model store does not let user 54321 do this: it belongs to user 0"}
    assert files(root) == before


def test_a_read_only_volume_is_served(root: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written at all, models are still read, and changes say that it is read-only."""
    model(root, "a")
    real = os.open

    def refusing(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    assert store.get(name("a")).weights.is_file()
    with pytest.raises(StoreFailed, match="read-only: its models are served"):
        store.delete(name("a"))


def test_a_crash_leaves_the_old_model(root: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process dies before the last step, the name still means the old model."""
    model(root, "a", system="old")
    model(root, "b", system="new")

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        store.copy(name("b"), name("a"))

    assert store.get(name("a")).system == "old"


def test_an_upload_that_is_not_what_it_says_has_no_name(store: ModelStore) -> None:
    """A writer of the store gives a file its name only if its content is the one promised."""
    digest = Sha256.of(b"right")
    writer: VerifiedWriter = store.incoming(digest)
    with pytest.raises(Exception, match="digest mismatch"), writer as file:
        file.write(b"wrong")

    assert files(store.layout.root) == set()
