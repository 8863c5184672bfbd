"""The disk under a model store: its lock, its space, and what its refusals mean to a person."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from akashllm.errors import Busy, StoreFailed
from akashllm.server.models.partial import MARGIN, UNLOCKABLE, gib

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for another process that changes the store."""
_POLL = 0.02


class Volume:
    """The folder `root` as something to write to. It is made on the first write, not before."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / ".lock"
        self._threads = threading.RLock()
        self._held = 0

    @contextlib.contextmanager
    def locked(self, patience: float = PATIENCE) -> Iterator[None]:
        """Nobody else changes the store meanwhile: no other thread and no other process.

        Raises `Busy` if another holds it for `patience` seconds, `StoreFailed` where nothing can be written at
        all. The same thread may take it again.
        """
        if not self._threads.acquire(timeout=patience):
            raise _busy()
        try:
            if self._held:
                yield
                return
            with self.explained():
                self._root.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                _take(descriptor, patience)
                self._held += 1
                try:
                    yield
                finally:
                    self._held -= 1
            finally:
                os.close(descriptor)
        finally:
            self._threads.release()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise `StoreFailed` for an `OSError`, with what it means and what to do."""
        try:
            yield
        except OSError as error:
            raise self.explain(error) from error

    def explain(self, error: OSError) -> StoreFailed:
        """What a refusal of the disk means."""
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StoreFailed(
                "the disk of the model store is full",
                hint="delete models that are no longer needed, or use a larger volume",
                code="disk_full",
            )
        if error.errno == errno.EROFS:
            return StoreFailed(
                "the model store is read-only: its models are served, and nothing can be changed",
                hint="mount the volume for writing to manage models",
            )
        if error.errno in {errno.EACCES, errno.EPERM}:
            return StoreFailed(
                f"the model store does not let user {os.geteuid()} do this: {self._owner()}",
                hint="give the folder to the service's user, or run the service as its owner",
            )
        return StoreFailed(f"the model store cannot be used: {error.strerror or error}")

    def _owner(self) -> str:
        try:
            return f"it belongs to user {self._root.stat().st_uid}"
        except OSError:
            return "it cannot be looked into"

    def free(self) -> int:
        """Bytes that may still be written."""
        folder = self._root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with self.explained():
            return max(0, shutil.disk_usage(folder).free - MARGIN)

    def need(self, size: int) -> None:
        """Raise `StoreFailed` unless `size` bytes fit."""
        free = self.free()
        if size > free:
            raise StoreFailed(
                f"the disk of the model store has {gib(free)} left beside the {gib(MARGIN)} that stay free, "
                f"and {gib(size)} are needed",
                hint="delete models that are no longer needed, or use a larger volume",
                code="disk_full",
            )


def _take(descriptor: int, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise _busy() from None
            time.sleep(_POLL)
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
            logger.warning("the model store's volume has no locks: let no second process change it")
            return
        else:
            return


def _busy() -> Busy:
    return Busy("the model store is being changed by another process", code="store_busy", retry_after=5)
