"""Model names and digests: what is accepted, what is refused, and that neither touches the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.digests import Sha256, VerifiedWriter
from akashllm.errors import BadName, DigestMismatch
from akashllm.names import MAX_LENGTH, REGISTRIES, ModelName

HOSTILE = [
    "",
    "..",
    ".",
    "...",
    "../../etc/passwd",
    "a/../../b",
    "a/../b",
    "/etc/passwd",
    "C:\\x",
    "a\\..\\b",
    "~/x",
    "file:///x",
    "%2e%2e%2f",
    "%252e%252e%252f",
    "\udcc0\udcae\udcc0\udcae",
    "llama3\x00",
    "llama3\n",
    "\nllama3",
    "lla\tma3",
    "llama3\u202e",
    "ll\u0430ma3",
    "llama\u0663",
    "llama3 ",
    "-llama3",
    "--config=/etc/x",
    "x:-tag",
    ".hidden",
    "http://evil/x",
    "https://registry.ollama.ai/library/llama3",
    "user@host/x",
    "evil.example/ns/model:tag",
    "127.0.0.1/ns/model",
    "localhost:5000/ns/model:tag",
    "[::1]/ns/model",
    "a/b/c/d",
    "llama3:",
    ":latest",
    "llama3:a:b",
    "ns//model",
    "na.me/model",
    "llama3@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "x" * 81,
    "x:" + "y" * 81,
    "x" * (MAX_LENGTH + 1),
]

GOOD = [
    ("llama3", "llama3:latest"),
    ("llama3:70b", "llama3:70b"),
    ("llama3.1:8b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"),
    ("Qwen/Qwen3-0.6B-GGUF:Q8_0", "Qwen/Qwen3-0.6B-GGUF:Q8_0"),
    ("library/llama3", "llama3:latest"),
    ("registry.ollama.ai/library/llama3", "llama3:latest"),
    ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:latest"),
    ("_x:1", "_x:1"),
    ("x" * 80 + ":" + "y" * 80, "x" * 80 + ":" + "y" * 80),
]

FIRST = string.ascii_letters + string.digits + "_"
parts = st.builds(str.__add__, st.sampled_from(FIRST), st.text(FIRST + ".-", max_size=30))
names = st.builds(
    ModelName,
    parts,
    parts,
    parts.map(lambda text: text.replace(".", "-")),
    st.sampled_from(sorted(REGISTRIES)),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_refused_without_touching_the_disk(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A malformed name is refused by its text alone, and the message does not repeat it."""

    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("the disk was touched")

    for name in ("open", "stat", "lstat", "scandir", "listdir"):
        monkeypatch.setattr(os, name, touched)
    try:
        with pytest.raises(BadName) as caught:
            ModelName.parse(text)
    finally:
        monkeypatch.undo()

    assert not text.strip(".") or text not in caught.value.message


@pytest.mark.parametrize(("text", "shown"), GOOD)
def test_names_are_shown_in_their_shortest_form(text: str, shown: str) -> None:
    """Defaults are filled in and dropped again; the tag is always shown."""
    assert str(ModelName.parse(text)) == shown


@given(names)
def test_parsing_what_is_shown_gives_the_same_name(name: ModelName) -> None:
    """`parse` undoes `str`, and the full and canonical forms name the same model."""
    assert ModelName.parse(str(name)) == name
    assert ModelName.parse(name.full) == name
    assert str(ModelName.parse(str(name))) == str(name)
    assert ModelName.parse(name.canonical) == name


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_bad_name(text: str) -> None:
    """No text makes `parse` fail in another way, and whatever it accepts is safe as a path."""
    try:
        name = ModelName.parse(text)
    except BadName:
        return
    assert ModelName.parse(str(name)) == name
    assert not {".", ".."} & set(name.parts)
    assert all(part.isascii() and "/" not in part and part[0] not in ".-" for part in name.parts)


def test_names_differ_by_more_than_case() -> None:
    """Lookups ignore case; the spelling is kept for display."""
    assert ModelName.parse("LLaMA3") == ModelName.parse("llama3:LATEST")
    assert hash(ModelName.parse("LLaMA3")) == hash(ModelName.parse("llama3"))
    assert ModelName.parse("llama3") != ModelName.parse("llama3:8b")
    assert ModelName.parse("llama3") != "llama3:latest"
    assert str(ModelName.parse("LLaMA3")) == "LLaMA3:latest"


HEX = hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"md5:{HEX}",
        f"SHA256:{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f"sha256-{HEX.upper()}",
        f"sha256 {HEX}",
        "sha256:../../x",
        f"sha256:{HEX[:-1]}/",
        "sha256:" + "\u0661" * 64,
    ],
)
def test_only_canonical_digests_are_accepted(text: str) -> None:
    """A digest is sha256, 64 lower-case hexadecimal digits, nothing more."""
    with pytest.raises(BadName):
        Sha256.parse(text)


def test_both_spellings_of_a_digest_are_one(tmp_path: Path) -> None:
    """Colon (manifests) and dash (file names) mean the same digest, from bytes or from a file."""
    file = tmp_path / "file"
    file.write_bytes(b"content")

    assert Sha256.parse(f"sha256:{HEX}") == Sha256.parse(f"sha256-{HEX}") == Sha256.of(b"content")
    assert Sha256.of_file(file) == Sha256.of(b"content")
    assert str(Sha256.of(b"content")) == f"sha256:{HEX}"
    assert Sha256.of(b"content").filename == f"sha256-{HEX}"


def test_a_verified_file_appears_whole(tmp_path: Path) -> None:
    """Content that is what was promised ends under its final name, and nothing else is left."""
    target = tmp_path / "blob"
    with VerifiedWriter(target, digest=Sha256.of(b"content"), size=7) as out:
        out.write(b"con")
        assert not target.exists()
        out.write(b"tent")

    assert [p.name for p in tmp_path.iterdir()] == ["blob"]
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize("body", [b"conten", b"contentt", b"Content", b""])
def test_a_wrong_file_never_appears(tmp_path: Path, body: bytes) -> None:
    """Shorter, longer or altered content leaves no file and the old one untouched."""
    target = tmp_path / "blob"
    target.write_bytes(b"old")
    with (
        pytest.raises(DigestMismatch),
        VerifiedWriter(target, digest=Sha256.of(b"content"), size=7) as out,
    ):
        out.write(body)

    assert [p.name for p in tmp_path.iterdir()] == ["blob"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle is reported as it is, and the partial file is removed."""
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:3])

    monkeypatch.setattr("akashllm.digests.os.write", full)
    with pytest.raises(OSError, match="No space"), VerifiedWriter(tmp_path / "blob") as out:
        out.write(b"abcdef")

    assert list(tmp_path.iterdir()) == []
