"""Where a model store keeps what: Ollama's folders, and no way out of them.

::

    ROOT/manifests/<host>/<namespace>/<model>/<tag>     JSON
    ROOT/blobs/sha256-<64 hexadecimal digits>           a layer or a configuration
    ROOT/blobs/.sha256-<...>*                           on its way to such a name

Source: Ollama's `server/modelpath.go` and `types/model/name.go`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from akashllm.digests import Sha256
from akashllm.errors import BadName, StoreFailed
from akashllm.names import ModelName

_DEPTH = 4
_MAX_ENTRIES = 100_000
"""Names in a folder that are looked at."""


Refused = Callable[[Path, OSError], None]


class Layout:
    """The folders below `root`. Only names and digests lead to paths here, and symbolic links out of the root
    lead nowhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.manifests = self.root / "manifests"
        self.blobs = self.root / "blobs"

    def blob(self, digest: Sha256) -> Path:
        """Where the file of that digest is or will be."""
        return self.blobs / digest.filename

    def manifest(self, name: ModelName) -> Path:
        """Where the manifest of a model is or goes: in the spelling that is there, whatever the name's case."""
        folder = self.manifests
        for part in (name.host, name.namespace, name.model, name.tag):
            if (folder / part).exists():
                folder /= part
                continue
            alike = sorted(e for e in _entries(folder) if e.isascii() and e.lower() == part.lower())
            folder /= alike[0] if alike else part
        return self.inside(folder)

    def name(self, path: Path) -> ModelName:
        """The model whose manifest is at a path that `manifest` gave and that exists, as it is spelt there."""
        host, namespace, model, tag = path.relative_to(self.manifests).parts
        return ModelName(model, tag, namespace, host)

    def models(self, refused: Refused | None = None) -> Iterator[tuple[ModelName | None, Path]]:
        """Every manifest with its model's name: None if its path is none here, as of an unknown registry.

        A folder that cannot be read is given to `refused`; without one that is an `OSError`.
        """
        for (host, namespace, model, tag), path in _walk(self.manifests, (), refused):
            try:
                yield ModelName(model, tag, namespace, host), path
            except BadName:
                yield None, path

    def inside(self, path: Path) -> Path:
        """`path`, unless it leads out of the root. Raises `StoreFailed`."""
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise StoreFailed(
                f"{path.name} in the model store is a link that leads out of it",
                hint="put the file itself there, or mount the folder it is in as the store",
            )
        return path

    def found(self, digest: Sha256) -> Path | None:
        """The file of that digest, if it is there."""
        path = self.blob(digest)
        try:
            return self.inside(path) if stat.S_ISREG(path.stat().st_mode) else None
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise


def _entries(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for _, entry in zip(range(_MAX_ENTRIES), entries, strict=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _walk(
    folder: Path, parts: tuple[str, ...], refused: Refused | None
) -> Iterator[tuple[tuple[str, ...], Path]]:
    try:
        entries = sorted(_entries(folder))
    except OSError as error:
        if refused is None:
            raise
        refused(folder, error)
        return
    for entry in entries:
        path = folder / entry
        if len(parts) == _DEPTH - 1:
            if not entry.startswith(".") and path.is_file():
                yield (*parts, entry), path
        elif not entry.startswith(".") and path.is_dir():
            yield from _walk(path, (*parts, entry), refused)
