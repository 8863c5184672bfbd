"""Repositories of the hub, and what of them is kept on the volume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from akashllm.errors import AkashllmError, DigestMismatch, DownloadFailed, UnknownModel
from akashllm.server.models.hub import Hub
from akashllm.server.models.origin import parse_origin
from akashllm.server.models.snapshot import Snapshots
from akashllm.server.models.weights import Choice, HubWeights, UrlWeights
from akashllm.testing.files import Asked, Fault, FileServer
from akashllm.testing.hub import COMMIT, HubServer, running_hub
from tests.fetch.conftest import SOON, content

OTHER = "f" * 40
WEIGHTS = b"GGUF" + content(50_000)
FILES = {
    "README.md": b"read me",
    ".gitattributes": b"*",
    "m-Q4_K_M.gguf": WEIGHTS,
    "m-Q8_0.gguf": WEIGHTS + b"8",
    "mmproj-m-f16.gguf": b"GGUF" + content(20_000, seed=3),
}
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model-00001-of-00002.safetensors": content(30_000, seed=4),
    "model-00002-of-00002.safetensors": content(30_000, seed=5),
    "model.safetensors.index.json": b"{}",
    "consolidated.safetensors": content(60_000, seed=6),
    "pytorch_model.bin": content(60_000, seed=7),
    "modeling_evil.py": b"import os",
    "1_Pooling/config.json": b"{}",
    "original/a/b.json": b"{}",
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub."""
    with running_hub() as running:
        yield running


def weights(
    hub: HubServer, root: Path, text: str = "hf.co/o/m", choice: Choice = "gguf", token: str | None = None
) -> HubWeights:
    """The weights `text` names."""
    return HubWeights(Hub(endpoint=hub.url, token=token, patience=SOON), parse_origin(text), root, choice)


def nothing(_file: str, _done: int, _total: int | None) -> None:
    """Tell nobody."""


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("hf.co/o/m", "m-Q4_K_M.gguf"),
        ("hf.co/o/m:Q8_0", "m-Q8_0.gguf"),
        ("hf.co/o/m:q8_0", "m-Q8_0.gguf"),
        ("huggingface.co/o/m/m-Q8_0.gguf", "m-Q8_0.gguf"),
        (f"hf.co/o/m@{COMMIT}/m-Q8_0.gguf", "m-Q8_0.gguf"),
        (f"hf.co/o/m@{COMMIT}:Q4_K_M", "m-Q4_K_M.gguf"),
        ("https://huggingface.co/o/m/resolve/main/m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("https://huggingface.co/o/m/blob/main/m-Q8_0.gguf", "m-Q8_0.gguf"),
    ],
)
async def test_one_gguf_comes(hub: HubServer, tmp_path: Path, text: str, file: str) -> None:
    """Every way to name a GGUF of a repository brings that file and no other, below its commit."""
    hub.put("o/m", FILES)
    told: list[tuple[str, int, int | None]] = []

    path = await weights(hub, tmp_path, text).fetch(lambda *word: told.append(word))

    assert path == tmp_path / "hub" / "o--m" / COMMIT / file
    assert path.read_bytes() == FILES[file]
    assert [found.name for found in path.parent.iterdir()] == [file]
    assert told[-1] == (file, len(FILES[file]), len(FILES[file]))


async def test_a_projector_comes_along_where_images_are_wanted(hub: HubServer, tmp_path: Path) -> None:
    """With `vision` the image projector is there too, and is not taken for the model."""
    hub.put("o/m", FILES)
    found = weights(hub, tmp_path, choice="vision")

    path = await found.fetch(nothing)

    assert path.name == "m-Q4_K_M.gguf"
    projector = found.projector()
    assert projector is not None
    assert projector.read_bytes() == FILES["mmproj-m-f16.gguf"]


async def test_a_model_in_parts_comes_whole(hub: HubServer, tmp_path: Path) -> None:
    """All parts of a split GGUF come; the first is what the engine is given."""
    parts = {f"big-Q8_0-{n:05d}-of-00003.gguf": b"GGUF" + content(20_000, seed=n) for n in (1, 2, 3)}
    hub.put("o/m", parts)

    path = await weights(hub, tmp_path, "hf.co/o/m:Q8_0").fetch(nothing)

    assert path.name == "big-Q8_0-00001-of-00003.gguf"
    assert {found.name: found.read_bytes() for found in path.parent.iterdir()} == parts


async def test_a_model_that_lacks_a_part_is_refused(hub: HubServer, tmp_path: Path) -> None:
    """A repository with two of three parts is told so before anything is fetched."""
    hub.put("o/m", {f"big-Q8_0-{n:05d}-of-00003.gguf": WEIGHTS for n in (1, 2)})

    with pytest.raises(UnknownModel, match="has 2 of the 3 parts"):
        await weights(hub, tmp_path, "hf.co/o/m:Q8_0").fetch(nothing)

    assert hub.cdn.seen == []


async def test_a_folder_for_vllm(hub: HubServer, tmp_path: Path) -> None:
    """Configuration, tokenizer and one set of safetensors come; what can run code does not."""
    hub.put("o/m", FOLDER)

    folder = await weights(hub, tmp_path, choice="folder").fetch(nothing)

    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FOLDER) - {
        "consolidated.safetensors",
        "pytorch_model.bin",
        "modeling_evil.py",
        "original/a/b.json",
    }


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"pytorch_model.bin": b"x", "config.json": b"{}"}, "no safetensors files"),
        ({"m-Q4_K_M.gguf": WEIGHTS}, "no safetensors files"),
    ],
)
async def test_a_folder_without_safetensors(
    hub: HubServer, tmp_path: Path, files: dict[str, bytes], sentence: str
) -> None:
    """Weights in a format that can run code are refused, and GGUF goes to another engine."""
    hub.put("o/m", files)

    with pytest.raises(UnknownModel, match=sentence):
        await weights(hub, tmp_path, choice="folder").fetch(nothing)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hf.co/o/m:Q2_K", "has no file in Q2_K"),
        ("hf.co/o/m/other.gguf", "has no file other.gguf"),
        ("hf.co/o/m@nowhere", "has no such revision"),
        ("hf.co/o/none", "the hub has no o/none"),
    ],
)
async def test_what_is_not_there(hub: HubServer, tmp_path: Path, text: str, sentence: str) -> None:
    """A wrong quantisation, file, revision or repository is named, each in its own words."""
    hub.put("o/m", FILES)

    with pytest.raises(AkashllmError, match=sentence):
        await weights(hub, tmp_path, text).fetch(nothing)


@pytest.mark.parametrize(
    ("gated", "token", "sentence", "hint"),
    [
        (True, None, "is gated: its licence has to be accepted", "deploy with HF_TOKEN"),
        (True, "wrong", "the account of HF_TOKEN may not read it", "accept its licence"),
        (False, None, "the hub has no o/m", "private or gated, set HF_TOKEN"),
        (False, "wrong", "the hub has no o/m", "check the spelling"),
    ],
)
async def test_gates(
    hub: HubServer, tmp_path: Path, *, gated: bool, token: str | None, sentence: str, hint: str
) -> None:
    """A gated repository, one that is missing and one that is private each say what to do next."""
    hub.put("o/m", FILES, tokens=frozenset({"right"}), gated=gated)

    with pytest.raises(DownloadFailed, match=sentence) as caught:
        await weights(hub, tmp_path, token=token).fetch(nothing)

    assert hint in caught.value.hint
    assert "wrong" not in str(caught.value) + caught.value.hint


async def test_the_token_opens_the_gate_and_goes_nowhere_else(hub: HubServer, tmp_path: Path) -> None:
    """With the right token the file comes; the server behind the redirect never sees the token."""
    hub.put("o/m", FILES, tokens=frozenset({"right"}), gated=True)

    await weights(hub, tmp_path, token="right").fetch(nothing)

    assert {asked.headers.get("authorization") for asked in hub.front.seen} == {"Bearer right"}
    assert {asked.headers.get("authorization") for asked in hub.cdn.seen} == {None}


async def test_what_is_complete_needs_no_network(hub: HubServer, tmp_path: Path) -> None:
    """A second start asks nobody, also for a branch; another request of the same repository does ask."""
    hub.put("o/m", FILES)
    first = await weights(hub, tmp_path).fetch(nothing)
    hub.front.seen.clear()
    hub.cdn.seen.clear()

    again = weights(hub, tmp_path)

    assert again.here() == first
    assert await again.fetch(nothing) == first
    assert weights(hub, tmp_path, "hf.co/o/m:Q8_0").here() is None
    assert hub.front.seen == hub.cdn.seen == []


@pytest.mark.parametrize("damage", ["gone", "short", "marker"])
async def test_what_is_damaged_is_not_complete(hub: HubServer, tmp_path: Path, damage: str) -> None:
    """A file that is gone or cut, or a note that cannot be read, makes it fetched again."""
    hub.put("o/m", FILES)
    path = await weights(hub, tmp_path).fetch(nothing)
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(WEIGHTS[:100])
    else:
        for marker in (tmp_path / "hub" / "o--m" / ".complete").iterdir():
            marker.write_text(json.dumps({"commit": "../..", "files": [["etc/passwd", 1]]}))
    again = weights(hub, tmp_path)
    assert again.here() is None

    assert (await again.fetch(nothing)).read_bytes() == WEIGHTS


async def test_an_interrupted_fetch_is_not_complete(hub: HubServer, tmp_path: Path) -> None:
    """Without its last file a snapshot is not there; the next fetch brings only what is missing."""
    hub.put("o/m", FOLDER)
    hub.cdn.judge = lambda asked: Fault(status=403) if len(hub.cdn.seen) > 1 else None
    with pytest.raises(DownloadFailed):
        await weights(hub, tmp_path, choice="folder").fetch(nothing)
    assert weights(hub, tmp_path, choice="folder").here() is None
    hub.cdn.judge = None
    hub.cdn.seen.clear()

    await weights(hub, tmp_path, choice="folder").fetch(nothing)

    assert len(hub.cdn.seen) == 1


async def test_a_small_file_that_is_not_what_is_listed(hub: HubServer, tmp_path: Path) -> None:
    """Files without a sha256 are compared with git's name for their content."""
    hub.put("o/m", FOLDER)
    answer = hub.answer
    hub.front.judge = lambda asked: (
        Fault(flip=0) if asked.path.endswith("/tokenizer_config.json") else answer(asked)
    )
    hub.front.put(f"/o/m/resolve/{COMMIT}/tokenizer_config.json", FOLDER["tokenizer_config.json"])

    with pytest.raises(DigestMismatch, match="not the file that the hub lists"):
        await weights(hub, tmp_path, choice="folder").fetch(nothing)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"sha": "../.."}', b"[" * 10_000, b'{"sha": "main"}']
)
async def test_a_hub_that_is_none(hub: HubServer, tmp_path: Path, body: bytes) -> None:
    """An endpoint that answers something else is told, whatever it says."""

    def judge(asked: Asked) -> None:
        hub.front.put(asked.path.partition("?")[0], body)

    hub.front.judge = judge

    with pytest.raises(DownloadFailed, match="does not"):
        await weights(hub, tmp_path).fetch(nothing)


async def test_paths_that_lead_out_are_left_out(hub: HubServer, tmp_path: Path) -> None:
    """A listing with `..`, absolute or hidden paths puts nothing outside its folder."""
    evil = dict.fromkeys(("../e-Q4_K_M.gguf", "/e-Q4_K_M.gguf", ".e-Q4_K_M.gguf", "a\\e-Q4_K_M.gguf"), WEIGHTS)
    hub.put("o/m", evil)

    with pytest.raises(UnknownModel, match="has no GGUF files"):
        await weights(hub, tmp_path).fetch(nothing)


async def test_other_revisions_make_room(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two revisions do not fit, the older one goes; where one does not, that is said with figures."""
    hub.put("o/m", FILES)
    old = await weights(hub, tmp_path).fetch(nothing)
    hub.put("o/m", {"m-Q4_K_M.gguf": WEIGHTS + b"new"}, commit=OTHER, revision="new")
    free = 1 << 40
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if old.exists() else free))

    new = await weights(hub, tmp_path, "hf.co/o/m@new").fetch(nothing)

    assert new.read_bytes() == WEIGHTS + b"new"
    assert not old.exists()
    assert weights(hub, tmp_path).here() is None
    assert list(Snapshots(tmp_path, "o/m").revisions()) == [OTHER]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DownloadFailed, match=r"hf\.co/o/m needs .* and the disk has 0\.0 MiB free"):
        await weights(hub, tmp_path, "hf.co/o/m:Q8_0").fetch(nothing)


async def test_a_file_behind_an_address(server: FileServer, tmp_path: Path) -> None:
    """A GGUF by its address comes once, whatever its query says, and needs no network afterwards."""
    url = server.put("/a/m.gguf", WEIGHTS)
    found = UrlWeights(parse_origin(f"{url}?token=1"), tmp_path, patience=SOON)

    path = await found.fetch(nothing)

    assert path.read_bytes() == WEIGHTS
    assert path.name == "m.gguf"
    assert UrlWeights(parse_origin(f"{url}?token=2"), tmp_path).here() == path
    assert "token" not in found.shown


async def test_a_file_behind_an_address_in_parts(server: FileServer, tmp_path: Path) -> None:
    """The address of the first part stands for all of them."""
    for n in (1, 2):
        server.put(f"/m-{n:05d}-of-00002.gguf", WEIGHTS + b"%d" % n)

    path = await UrlWeights(parse_origin(f"{server.url}/m-00001-of-00002.gguf"), tmp_path).fetch(nothing)

    assert {found.name for found in path.parent.iterdir()} == {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}


async def test_an_address_with_a_digest(server: FileServer, tmp_path: Path) -> None:
    """`#sha256=` is held against what comes."""
    url = server.put("/m.gguf", WEIGHTS)

    with pytest.raises(DigestMismatch):
        await UrlWeights(parse_origin(f"{url}#sha256={'0' * 64}"), tmp_path, patience=SOON).fetch(nothing)


async def test_an_address_that_gives_something_else(server: FileServer, tmp_path: Path) -> None:
    """What is no GGUF file is not kept."""
    found = UrlWeights(parse_origin(server.put("/m.gguf", b"not found")), tmp_path, patience=SOON)

    with pytest.raises(DownloadFailed, match="is no GGUF file"):
        await found.fetch(nothing)

    assert found.here() is None
