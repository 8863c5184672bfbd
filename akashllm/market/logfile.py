"""A log that never grows beyond two files, and its reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_BYTES = 4 << 20
"""One file's size; with the one before it a log takes twice that."""

MAX_LINE = 64 << 10
_CHUNK = 64 << 10


class BoundedLog:
    """Appends bytes; a full file becomes `NAME.1` in place of the one before."""

    def __init__(self, path: Path, limit: int = MAX_BYTES) -> None:
        self.path = path
        self.limit = limit
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        if self._size and self._size + len(data) > self.limit:
            os.close(self._descriptor)
            self.path.replace(previous(self.path))
            self._descriptor = self._open()
            self._size = 0
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)


def previous(path: Path) -> Path:
    """The file that holds what came before."""
    return path.with_name(path.name + ".1")


def read_tail(path: Path, lines: int | None = None) -> list[str]:
    """The last lines of both files, oldest first; all of them for None."""
    data = b"".join(part.read_bytes() for part in (previous(path), path) if part.exists())
    found = [_text(line) for line in data.splitlines()]
    return found if lines is None else found[max(0, len(found) - lines) :]


def follow(path: Path, wait: Callable[[], bool], *, tail: int | None = None) -> Iterator[str]:
    """The last lines, then each new one, across rotations.

    wait   sleeps a moment; False means that nothing more will be written: what is there is read, then it ends
    """
    file = path.open("rb") if path.exists() else None
    try:
        # The offset is taken first, so that no line falls between what was and what comes.
        end = os.fstat(file.fileno()).st_size if file else 0
        rest = b""
        if file:
            *before, rest = file.read(end).split(b"\n")
            older = previous(path).read_bytes().splitlines() if previous(path).exists() else []
            lines = older + before
            yield from map(_text, lines if tail is None else lines[max(0, len(lines) - tail) :])
        more = True
        while True:
            if file is None and path.exists():
                file = path.open("rb")
            while file and (data := file.read(_CHUNK)):
                *whole, rest = (rest + data).split(b"\n")
                yield from map(_text, whole)
                if len(rest) > MAX_LINE:
                    yield _text(rest)
                    rest = b""
            if file and path.exists() and os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                file.close()
                file = path.open("rb")
                continue
            if not more:
                break
            more = wait()
        if rest:
            yield _text(rest)
    finally:
        if file:
            file.close()


def _text(line: bytes) -> str:
    return line[:MAX_LINE].decode("utf-8", "replace").rstrip("\r")
