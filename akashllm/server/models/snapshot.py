"""What was fetched from repositories, on a volume: complete or not there, and usable without a network.

::

    ROOT/hub/<org>--<repo>/<commit>/<file>         one commit's files under their own names
    ROOT/hub/<org>--<repo>/.complete/<key>.json    written last: which commit and files a request came to
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from akashllm.errors import DownloadFailed
from akashllm.server.models.hub import RemoteFile
from akashllm.server.models.origin import safe_path
from akashllm.server.models.partial import MARGIN, disk, gib, held

logger = logging.getLogger(__name__)


class _Marker(msgspec.Struct, frozen=True):
    """`files` are (path, size) in the order that was asked for; the first is the model."""

    commit: str
    files: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one request, all there."""

    folder: Path
    files: tuple[Path, ...]


class Snapshots:
    """The snapshots of one repository (`org/repo`) below `root`."""

    def __init__(self, root: Path, repository: str) -> None:
        self._base = root / "hub" / repository.replace("/", "--")
        self._markers = self._base / ".complete"

    def folder(self, commit: str) -> Path:
        """Where the files of a commit go."""
        return self._base / commit

    def find(self, request: str) -> Snapshot | None:
        """What `request` (revision and choice, as text) came to, if every file of it is still there whole."""
        marker = self._read(self._marker(request))
        if marker is None:
            return None
        folder = self.folder(marker.commit)
        files = []
        for name, size in marker.files:
            path = folder / name
            try:
                if path.stat().st_size != size:
                    return None
            except OSError:
                return None
            files.append(path)
        return Snapshot(folder, tuple(files)) if files else None

    def complete(self, request: str, commit: str, files: Iterable[RemoteFile]) -> None:
        """Note that the files of `request` are all there. Only now `find` knows them."""
        marker = _Marker(commit, [(file.path, file.size) for file in files])
        path = self._marker(request)
        with disk(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_bytes(msgspec.json.encode(marker))
            temporary.replace(path)

    def revisions(self) -> dict[str, int]:
        """The commits that take space, with their bytes on the disk, the oldest first."""
        try:
            folders = [entry for entry in self._base.iterdir() if entry.name[0] != "." and entry.is_dir()]
        except OSError:
            return {}
        folders.sort(key=lambda folder: folder.stat().st_mtime_ns)
        return {folder.name: _size(folder) for folder in folders}

    def remove(self, commit: str) -> None:
        """Remove a commit's files, and first the notes that they are complete."""
        for path in self._markers.glob("*.json"):
            marker = self._read(path)
            if marker is not None and marker.commit == commit:
                path.unlink(missing_ok=True)
        if commit in self.revisions():
            shutil.rmtree(self.folder(commit))

    def make_room(self, commit: str, files: Iterable[RemoteFile], what: str) -> None:
        """See to it that `files` fit: other revisions go, oldest first, where there is no room for both.

        Raises `DownloadFailed` with both figures where even that is not enough, before a byte is fetched.
        """
        folder = self.folder(commit)
        with disk(what):
            folder.mkdir(parents=True, exist_ok=True)
            need = sum(max(0, file.size - _held(folder / file.path)) for file in files)
            others = [name for name in self.revisions() if name != commit]
            while need and need + MARGIN > (free := shutil.disk_usage(folder).free):
                if not others:
                    raise DownloadFailed(
                        f"{what} needs {gib(need)} and the disk has {gib(free)} free",
                        hint="use a larger volume or a smaller quantisation",
                        code="disk_full",
                    )
                logger.info("removing revision %s, which leaves no room for another", others[0])
                self.remove(others.pop(0))

    def _marker(self, request: str) -> Path:
        return self._markers / f"{hashlib.sha256(request.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path) -> _Marker | None:
        try:
            marker = msgspec.json.decode(path.read_bytes(), type=_Marker)
        except (OSError, msgspec.DecodeError):
            return None
        good = marker.commit.isalnum() and all(safe_path(name) for name, _ in marker.files)
        return marker if good else None


def _held(path: Path) -> int:
    """Bytes of a file, or of the part of it, that take space already."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return held(path)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
