"""The models on this machine: Ollama's folder, read without locks, changed under one.

A manifest is replaced in one step and only when every file it names is there, so whoever reads sees a whole
model or none. Methods block: keep them off the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from akashllm.digests import Sha256, VerifiedWriter
from akashllm.errors import ModelNotFound, StoreFailed
from akashllm.names import ModelName
from akashllm.server.models.layout import Layout
from akashllm.server.models.manifest import MAX_MANIFEST, Layer, Manifest
from akashllm.server.models.reading import read_file, read_model
from akashllm.server.models.stored import StoredModel
from akashllm.server.models.volume import PATIENCE, Volume

logger = logging.getLogger(__name__)

HOUR = 3600.0
WEEK = 7 * 24 * HOUR
"""Seconds for which an unfinished download waits for someone to go on with it."""

_READABLE = 0o644
_DIGESTS = re.compile(rb"sha256[:-]([0-9a-f]{64})")


class ModelStore:
    """The store in the folder `root`, which need not exist yet. Processes may share it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.volume = Volume(self.layout.root)
        self._known: dict[Path, tuple[tuple[int, int, int], StoredModel]] = {}
        self._complained: set[tuple[Path, int]] = set()
        self._needed: Counter[str] = Counter()
        self._promised: dict[str, float] = {}
        self._mutex = threading.Lock()

    # --- reading -----------------------------------------------------------------------------------

    def get(self, name: ModelName) -> StoredModel:
        """The model of that name, whatever its case, under the name it is stored by.

        Raises `ModelNotFound`, and `StoreFailed` with the reason for one that is damaged.
        """
        path = self._manifest(name)
        try:
            return self._read(self.layout.name(path), path)
        except StoreFailed as error:
            raise StoreFailed(
                f"the model '{name}' cannot be used: {error.message}; delete it, or pull it again"
            ) from error

    def list(self) -> list[StoredModel]:
        """Every usable model, newest first. What is damaged or closed is left out, with a line in the log."""
        found = []
        for name, path in self.layout.models(self._refused):
            if name is None:
                self._complain(path, "its name is none here, or its registry not in AKASHLLM_REGISTRIES")
                continue
            try:
                found.append(self._read(name, path))
            except StoreFailed as error:
                self._complain(path, error.message)
        return sorted(found, key=lambda model: (-model.modified, str(model.name)))

    def manifest(self, name: ModelName) -> tuple[Manifest, bytes]:
        """A model's manifest, and the bytes it stands in. Raises as `get`."""
        path = self._manifest(name)
        with self.volume.explained():
            data = read_file(path, MAX_MANIFEST)
        try:
            return Manifest.read(data), data
        except StoreFailed as error:
            raise StoreFailed(f"the model '{name}' is damaged: {error.message}") from error

    def blob(self, digest: Sha256, size: int | None = None) -> Path | None:
        """The file of that digest, if it is there (in that size). It is not pruned in the hour to come."""
        with self.volume.explained():
            path = self.layout.found(digest)
            if path is None or (size is not None and path.stat().st_size != size):
                return None
        with contextlib.suppress(OSError):  # a store that cannot be written is not pruned either
            os.utime(path)
        return path

    def promised(self, digest: Sha256, size: int | None = None) -> Path | None:
        """`blob`, for a client that hears of the file and will then name it in a model.

        Until it does, or an hour is over, this process does not remove the file together with another model.
        """
        now = time.monotonic()
        with self._mutex:
            self._promised = {known: until for known, until in self._promised.items() if until > now}
            self._promised[digest.hex] = now + HOUR
        path = self.blob(digest, size)
        if path is None:
            with self._mutex:
                self._promised.pop(digest.hex, None)
        return path

    def _manifest(self, name: ModelName) -> Path:
        with self.volume.explained():
            path = self.layout.manifest(name)
            if not path.is_file():
                raise ModelNotFound(f"model '{name}' not found", param="model")
            return path

    def _read(self, name: ModelName, path: Path) -> StoredModel:
        with self.volume.explained():
            self.layout.inside(path)
            state = path.stat()
            version = (state.st_mtime_ns, state.st_size, state.st_ino)
            known = self._known.get(path)
            if known is not None and known[0] == version and _whole(known[1]):
                return known[1]
            model = read_model(self.layout, name, read_file(path, MAX_MANIFEST), state.st_mtime_ns)
        self._known[path] = (version, model)
        return model

    def _refused(self, folder: Path, error: OSError) -> None:
        self._complain(folder, self.volume.explain(error).message)

    def _complain(self, path: Path, why: str) -> None:
        with contextlib.suppress(OSError):
            key = (path, path.lstat().st_mtime_ns)
            if key not in self._complained:
                self._complained.add(key)
                shown = path.relative_to(self.layout.root)
                logger.warning("%s of the model store is left out: %s", shown, why)

    # --- writing -----------------------------------------------------------------------------------

    def place(self, digest: Sha256) -> Path:
        """Where a download of that digest goes. Raises `StoreFailed` if nothing can be written there."""
        self._ready(self.layout.blobs)
        path = self.layout.blob(digest)
        if path.is_symlink():
            self.layout.inside(path)
        return path

    def incoming(self, digest: Sha256, size: int | None = None) -> VerifiedWriter:
        """A writer of the file of that digest, as a context manager; wrap it in `volume.explained()`."""
        self._ready(self.layout.blobs)
        return VerifiedWriter(self.layout.blob(digest), digest=digest, size=size)

    def put(self, data: bytes, media_type: str) -> Layer:
        """Keep some bytes; the layer that a manifest lists for them."""
        digest = Sha256.of(data)
        if self.blob(digest, len(data)) is None:
            with self.volume.explained(), self.incoming(digest, len(data)) as file:
                file.write(data)
            self.opened(digest)
        return Layer(media_type=media_type, digest=str(digest), size=len(data))

    def opened(self, digest: Sha256) -> None:
        """Let everyone read the file of that digest, as Ollama's are: it may run as another user."""
        with self.volume.explained(), contextlib.suppress(PermissionError):  # one that another user put there
            self.layout.blob(digest).chmod(_READABLE)

    def link(self, name: ModelName, data: bytes) -> int:
        """Make `data`, a manifest, the model of that name, and remove files that no model uses now.

        Every file it lists must be there; returns how many were removed. Raises `StoreFailed`.
        """
        manifest = Manifest.read(data)
        with self.volume.locked(), self.volume.explained():
            for layer in manifest.files:
                if self.blob(layer.sha256, layer.size) is None:
                    raise StoreFailed(
                        f"the file {layer.digest[:19]} has gone from the store meanwhile; try again"
                    )
            path = self.layout.manifest(name)
            old = self._digests(path) if path.is_file() else set()
            self._ready(path.parent)
            with VerifiedWriter(path, digest=Sha256.of(data)) as file:
                file.write(data)
            path.chmod(_READABLE)
            with self._mutex:
                for layer in manifest.files:
                    self._promised.pop(layer.sha256.hex, None)
            return self._remove(old)

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Give a model a second name, in place of what has it now. Raises as `get`."""
        with self.volume.locked():
            _, data = self.manifest(source)
            self.link(destination, data)
        logger.info("copied the model %s to %s", source, destination)

    def delete(self, name: ModelName) -> None:
        """Remove a model, damaged or not, and the files that no other uses. Raises `ModelNotFound`."""
        path = self._manifest(name)
        with self.volume.locked(), self.volume.explained():
            if not path.is_file():
                raise ModelNotFound(f"model '{name}' not found", param="model")
            digests = self._digests(path)
            path.unlink()
            self._known.pop(path, None)
            for folder in list(path.parents)[:3]:
                try:
                    folder.rmdir()
                except OSError:
                    break
            self._remove(digests)
        logger.info("deleted the model %s", name)

    @contextlib.contextmanager
    def keeping(self, digests: Iterable[Sha256]) -> Iterator[None]:
        """Whatever else happens, these files are not removed meanwhile by this process."""
        wanted = [digest.hex for digest in digests]
        with self._mutex:
            self._needed.update(wanted)
        try:
            yield
        finally:
            with self._mutex:
                self._needed.subtract(wanted)
                self._needed += Counter()

    def prune(self, age: float = HOUR, *, patience: float = PATIENCE) -> int:
        """Remove files that no model uses and nobody has touched for `age` seconds; how many.

        Unfinished downloads are left for a week. Raises `StoreFailed` where the store cannot be written, `Busy`
        where another process has held it for `patience` seconds.
        """
        if not self.layout.blobs.is_dir():
            return 0
        removed = 0
        with self.volume.locked(patience), self.volume.explained():
            used = self._used()
            now = time.time()
            with os.scandir(self.layout.blobs) as entries:
                for entry in entries:
                    match = _DIGESTS.search(entry.name.encode("utf-8", "surrogateescape"))
                    if match is None or not entry.is_file(follow_symlinks=False):
                        continue
                    whole = entry.name == f"sha256-{match[1].decode()}"
                    if whole and match[1].decode() in used:
                        continue
                    limit = max(age, WEEK) if not whole and "partial" in entry.name else age
                    if now - entry.stat(follow_symlinks=False).st_mtime > limit:
                        Path(entry.path).unlink(missing_ok=True)
                        removed += 1
        return removed

    def _remove(self, digests: set[str]) -> int:
        """Remove those of some files that no model uses."""
        unused = digests - self._used() if digests else set()
        removed = 0
        for digest in unused:
            path = self.layout.blob(Sha256(digest))
            if path.is_file() or path.is_symlink():
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _used(self) -> set[str]:
        """Every digest that a manifest mentions, damaged and strange ones included, and what else is wanted."""
        used = {digest for _, path in self.layout.models() for digest in self._digests(path)}
        now = time.monotonic()
        with self._mutex:
            promised = {digest for digest, until in self._promised.items() if until > now}
            return used | set(self._needed) | promised

    def _digests(self, path: Path) -> set[str]:
        with path.open("rb") as file:
            return {found.decode() for found in _DIGESTS.findall(file.read(MAX_MANIFEST))}

    def _ready(self, folder: Path) -> None:
        with self.volume.explained():
            self.layout.inside(folder).mkdir(parents=True, exist_ok=True)


def _whole(model: StoredModel) -> bool:
    """Whether the large files of a model that was read before are still there, in full."""
    sizes = {digest[-64:]: size for _, digest, size in model.layers}
    return all(
        path.is_file() and path.stat().st_size == sizes.get(path.name[-64:])
        for path in (model.weights, *model.projectors, *model.adapters)
    )
