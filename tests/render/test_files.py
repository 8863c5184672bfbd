"""Writing generated files: atomic, inside the target, never over somebody's work."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm.errors import CheckFailed, UsageError
from akashllm.render import check_files, drift, write_files
from akashllm.render.stamp import origin, stamp

FILES = {"a.yaml": stamp("one\n"), "sub/b.yaml": stamp("two\n")}


def test_files_are_written_once(tmp_path: Path) -> None:
    """Directories appear, nothing temporary stays, and a second run changes nothing."""
    assert sorted(path.name for path in write_files(tmp_path, FILES)) == ["a.yaml", "b.yaml"]
    assert (tmp_path / "sub" / "b.yaml").read_text() == FILES["sub/b.yaml"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.yaml", "b.yaml"]
    assert write_files(tmp_path, FILES) == []
    assert drift(tmp_path, FILES) == ""


def test_our_own_older_output_is_replaced(tmp_path: Path) -> None:
    """A file that is as we wrote it may be replaced without asking."""
    write_files(tmp_path, FILES)
    new = {**FILES, "a.yaml": stamp("newer\n")}
    assert [path.name for path in write_files(tmp_path, new)] == ["a.yaml"]


@pytest.mark.parametrize(
    ("text", "why"), [(FILES["a.yaml"] + "mine\n", "edited by hand"), ("mine\n", "not written by")]
)
def test_somebodys_work_stays(tmp_path: Path, text: str, why: str) -> None:
    """An edited or foreign file stops everything before the first byte; force overrides that."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=why):
        write_files(tmp_path, {"b.yaml": FILES["a.yaml"], **FILES})
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert (tmp_path / "a.yaml").read_text() == text
    write_files(tmp_path, FILES, force=True)
    assert (tmp_path / "a.yaml").read_text() == FILES["a.yaml"]


def test_one_changed_byte_is_drift(tmp_path: Path) -> None:
    """The check shows a unified diff of what differs and of what is missing, and writes nothing."""
    write_files(tmp_path, FILES)
    (tmp_path / "a.yaml").write_text(FILES["a.yaml"].replace("one", "onE"))
    (tmp_path / "sub" / "b.yaml").unlink()
    with pytest.raises(CheckFailed) as caught:
        check_files(tmp_path, FILES)
    lines = str(caught.value).split("\n")
    assert {"-onE", "+one", "+two", "--- /dev/null"} <= set(lines)
    assert not (tmp_path / "sub" / "b.yaml").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\x00b", "a\\b"])
def test_paths_stay_inside(tmp_path: Path, name: str) -> None:
    """No path leaves the target directory."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UsageError):
        write_files(target, {name: FILES["a.yaml"]}, force=True)
    assert list(tmp_path.iterdir()) == [target]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link as the file, or as a directory on the way, is refused even with force."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "a.yaml").write_text("theirs")
    (target / "a.yaml").symlink_to(outside / "a.yaml")
    (target / "sub").symlink_to(outside)
    for name, text in FILES.items():
        with pytest.raises(UsageError, match="symbolic link"):
            write_files(target, {name: text}, force=True)
        with pytest.raises(UsageError, match="symbolic link"):
            drift(target, {name: text})
    assert (outside / "a.yaml").read_text() == "theirs"
    assert [path.name for path in outside.iterdir()] == ["a.yaml"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last step fails, the old content stands and no temporary file is left."""
    write_files(tmp_path, FILES)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UsageError, match="No space left"):
        write_files(tmp_path, {"a.yaml": stamp("newer\n")})
    assert (tmp_path / "a.yaml").read_text() == FILES["a.yaml"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    """A directory where a file should be is an error, not a crash."""
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(UsageError, match="regular file"):
        write_files(tmp_path, FILES, force=True)


def test_the_header_tells_who_wrote_last() -> None:
    """Ours as written, edited since, or never ours."""
    text = stamp("one\ntwo\n")
    assert origin(text) == "ours"
    assert origin(text.replace("two", "three")) == "edited"
    assert origin("a\nb\n") == "foreign"
    assert origin("") == "foreign"
