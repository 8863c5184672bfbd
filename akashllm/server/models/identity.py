"""The digest and the date under which a served model file is listed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from akashllm.digests import Sha256
from akashllm.server.models.manifest import CONFIG, MANIFEST, MODEL

HASHED_WHOLE = 1 << 30
"""Bytes up to which a file is hashed. Reading 40 GB only to list a model is not worth a minute of disk."""


_STARTED = time.time_ns()


class Identity(NamedTuple):
    """`digest` is 64 hexadecimal digits, `modified` nanoseconds since 1970, `size` bytes.

    What has no file here was modified when this service started: clients show it as an age.
    """

    digest: str
    modified: int
    size: int


class ModelFile:
    """A model's file, identified on first use and again when it changes, never on the event loop.

    As in Ollama the digest is that of a manifest with one model layer. For a folder, or a file beyond
    `HASHED_WHOLE`, the layer's digest is made of name, size and time of change: it tells versions apart, it
    proves nothing.
    """

    def __init__(self, path: Path | Callable[[], Path | None] | None, name: str) -> None:
        self._path = path
        self._name = name
        self._known: Identity | None = None
        self._lock = asyncio.Lock()

    @property
    def path(self) -> Path | None:
        """Where it is now: weights that have to be fetched first are not there at the start."""
        return self._path() if callable(self._path) else self._path

    async def identity(self) -> Identity:
        """Who it is now. A file that cannot be read, or none at all, is identified by the name alone."""
        async with self._lock:
            self._known = await asyncio.to_thread(self._identify)
            return self._known

    def _identify(self) -> Identity:
        path = self.path
        try:
            found = path.stat() if path is not None else None
        except OSError:
            found = None
        if path is None or found is None:
            return Identity(_manifest(Sha256.of(self._name.encode()), 0), _STARTED, 0)
        known = self._known
        if known is not None and (known.modified, known.size) == (found.st_mtime_ns, found.st_size):
            return known
        layer = self._layer(path, found)
        return Identity(_manifest(layer, found.st_size), found.st_mtime_ns, found.st_size)

    def _layer(self, path: Path, found: os.stat_result) -> Sha256:
        if stat.S_ISREG(found.st_mode) and found.st_size <= HASHED_WHOLE:
            return Sha256.of_file(path)
        return Sha256.of(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}".encode())


def _manifest(layer: Sha256, size: int) -> str:
    config = b'{"model_format":"gguf","architecture":"amd64","os":"linux"}'
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": str(Sha256.of(config)), "size": len(config)},
        "layers": [{"mediaType": MODEL, "digest": str(layer), "size": size}],
    }
    return hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
