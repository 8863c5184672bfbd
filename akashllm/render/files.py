"""Generated files on disk: written atomically, compared without writing, never over somebody's edits."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from akashllm.errors import CheckFailed, UsageError
from akashllm.render.stamp import origin

MAX_DIFF_LINES = 400


def write_files(target: Path, files: Mapping[str, str], *, force: bool = False) -> list[Path]:
    """Write `files` (relative path -> text) below `target`; return the paths that changed.

    All paths are judged before the first byte is written. `UsageError` if a path leaves `target`, goes through
    a symbolic link, or holds a file that was edited by hand or never was ours, unless `force`.
    """
    places = {name: _place(target, name) for name in files}
    changed = [name for name, path in places.items() if _read(path) != files[name]]
    if not force:
        for name in changed:
            text = _read(places[name])
            if text is not None and origin(text) != "ours":
                what = "was edited by hand" if origin(text) == "edited" else "was not written by akashllm"
                raise UsageError(
                    f"{_shown(name)} {what} and would be overwritten",
                    hint="move it away, put the change into the template, or use --force",
                )
    for name in changed:
        _write(places[name], files[name])
    return [places[name] for name in changed]


def drift(target: Path, files: Mapping[str, str]) -> str:
    """A unified diff from what lies below `target` to what would be written; empty where they agree."""
    lines: list[str] = []
    for name in sorted(files):
        text = _read(_place(target, name))
        if text != files[name]:
            lines += difflib.unified_diff(
                (text or "").splitlines(keepends=True),
                files[name].splitlines(keepends=True),
                fromfile=f"{_shown(name)} (on disk)" if text is not None else "/dev/null",
                tofile=f"{_shown(name)} (rendered)",
            )
    if len(lines) > MAX_DIFF_LINES:
        left = len(lines) - MAX_DIFF_LINES
        lines = [*lines[:MAX_DIFF_LINES], f"... {left} more lines differ\n"]
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def check_files(target: Path, files: Mapping[str, str]) -> None:
    """Raise `CheckFailed` with the diff as its message if anything below `target` differs."""
    difference = drift(target, files)
    if difference:
        raise CheckFailed(difference.rstrip("\n"), hint="run akashllm render and commit what it writes")


def _place(target: Path, name: str) -> Path:
    """The path of a file below `target`, which must not lead out of it by `..` or by a link."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\x00" in name or "\\" in name:
        raise UsageError("a generated file's path leaves the target directory")
    root = target.resolve()
    path = root
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise UsageError(
                f"{_shown(name)} goes through a symbolic link", hint="replace the link by a file or directory"
            )
    if path.exists() and not path.is_file():
        raise UsageError(f"{_shown(name)} is not a regular file")
    return path


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{_shown(path.name)} cannot be read: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{_shown(path.name)} cannot be written: {error.strerror}") from None


def _shown(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)[:200]
