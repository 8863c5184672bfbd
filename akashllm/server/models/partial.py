"""A file that is still coming: its bytes, a small record of which are there, and the lock that guards both."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from akashllm.digests import Sha256
from akashllm.errors import BadName, DigestMismatch, DownloadFailed
from akashllm.server.models.ranges import Ranges

MARGIN = 64 << 20
"""Bytes of the disk that a download leaves to others."""

UNLOCKABLE = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What a volume without locks answers to whoever wants one."""

_GIB = 1 << 30
_BLOCK = 512
_CHUNK = 1 << 20
_MAX_RECORD = 4 << 20
_POLL = 0.25
_RECORD = 1
"""Version of the record; one of another version is not understood, and the file begun anew."""

_T = TypeVar("_T")


class Partial:
    """`.NAME.partial` beside the file it will become, with `.NAME.partial.json`; both readable by us only.

    The record holds no address: some carry signatures. `source` is a digest that tells addresses apart.
    The lock is on the partial file itself, so nothing is left behind when it gets its name.
    """

    def __init__(self, into: Path, descriptor: int, *, source: str, digest: Sha256 | None) -> None:
        self.into = into
        self.done = Ranges()
        self.size: int | None = None
        self.validator = ""
        self.resumed = False
        """Whether bytes of an earlier run are in it."""
        self._descriptor = descriptor
        self._path, self._record = _beside(into)
        self._source = str(digest) if digest else source
        self._keeping = asyncio.Lock()
        self._load()

    @classmethod
    @asynccontextmanager
    async def locked(cls, into: Path, *, source: str, digest: Sha256 | None) -> AsyncIterator[Partial | None]:
        """The partial file of `into`, ours alone; None if `into` came into being while another one had it.

        Raises `DownloadFailed` if the folder cannot be written.
        """
        path, _ = _beside(into)
        while True:
            with disk(into.name):
                into.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = os.open(path, flags, 0o600)
            try:
                await _lock(descriptor)
                if not _same(descriptor, path):
                    continue
                if _exists(into):
                    path.unlink(missing_ok=True)
                    yield None
                    return
                partial = cls(into, descriptor, source=source, digest=digest)
                try:
                    yield partial
                finally:
                    await partial.keep()
                    partial.discard_if_empty()
                return
            finally:
                os.close(descriptor)

    def _load(self) -> None:
        """Go on where the last run stopped, if its record is about this source and believable."""
        try:
            if self._record.stat().st_size > _MAX_RECORD:
                return
            known = json.loads(self._record.read_bytes())
            size, done = _believable(known, self._source, os.fstat(self._descriptor).st_size)
        except (OSError, ValueError, RecursionError):
            os.ftruncate(self._descriptor, 0)
            return
        self.size = size
        self.validator = known["validator"]
        self.done = done
        self.resumed = done.total > 0

    def reset(self) -> None:
        """Forget every byte."""
        self.done.clear()
        self.size = None
        self.validator = ""
        self.resumed = False
        os.ftruncate(self._descriptor, 0)
        self._record.unlink(missing_ok=True)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.size is not None and self.done.total == self.size

    async def check_space(self, size: int) -> None:
        """Refuse a file that the disk cannot hold, before a byte of it is asked for."""
        with disk(self.into.name):
            free = os.statvfs(self.into.parent)
            have = os.fstat(self._descriptor).st_blocks * _BLOCK
        room = free.f_bavail * free.f_frsize
        need = size - have
        if need + MARGIN > room and need > 0:
            raise DownloadFailed(
                f"{self.into.name} needs {gib(need)} more and the disk has {gib(room)} free",
                hint="use a larger volume, or remove models that are no longer needed",
                code="disk_full",
            )

    async def write(self, offset: int, data: bytes | bytearray) -> None:
        """Put bytes at their place, off the event loop, and count them as there."""
        with disk(self.into.name):
            await undisturbed(lambda: _write(self._descriptor, data, offset))
        self.done.add(offset, offset + len(data))

    async def keep(self) -> None:
        """Write the record, so that another run can go on: first the bytes, then that they are there."""
        async with self._keeping:
            if self.size is not None and self.done.total and _same(self._descriptor, self._path):
                record = {
                    "version": _RECORD,
                    "source": self._source,
                    "size": self.size,
                    "validator": self.validator,
                    "done": list(self.done),
                }
                with disk(self.into.name):
                    await undisturbed(lambda: self._write_record(record))

    def _write_record(self, record: Mapping[str, Any]) -> None:
        os.fdatasync(self._descriptor)
        temporary = self._record.with_name(f"{self._record.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file)
        temporary.replace(self._record)

    async def finish(self, digest: Sha256 | None) -> None:
        """Give the file its name if it is what was promised. Raises `DigestMismatch`."""
        if digest is not None:
            found = await self._hash()
            if found != digest:
                raise DigestMismatch(
                    f"{self.into.name} is not the file that was promised: its digest is {found}, not {digest}",
                    hint="it is not kept; fetch it again, and if it stays the source does not keep its word",
                )
        with disk(self.into.name):
            await undisturbed(self._rename)

    def _rename(self) -> None:
        os.ftruncate(self._descriptor, self.size or 0)
        os.fchmod(self._descriptor, 0o644)
        os.fsync(self._descriptor)
        self._path.replace(self.into)
        self._record.unlink(missing_ok=True)
        folder = os.open(self.into.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Remove every trace of it."""
        self._path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Leave nothing where nothing came."""
        if not self.done.total and _same(self._descriptor, self._path):
            self.discard()

    async def _hash(self) -> Sha256:
        stop = threading.Event()

        def compute() -> Sha256:
            hashed, at = hashlib.sha256(), 0
            while not stop.is_set() and (data := os.pread(self._descriptor, _CHUNK, at)):
                hashed.update(data)
                at += len(data)
            return Sha256(hashed.hexdigest())

        with disk(self.into.name):
            return await undisturbed(compute, stop.set)


async def undisturbed(work: Callable[[], _T], hurry: Callable[[], None] | None = None) -> _T:
    """Run `work` in a thread and never leave it behind: a cancellation is passed on once it has ended.

    `hurry` is called at a cancellation. A thread that still writes to a descriptor which is closed by then, and
    perhaps another file's, would be worse than waiting.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
            if hurry is not None:
                hurry()
    if cancelled:
        task.exception()
        raise asyncio.CancelledError
    return task.result()


@contextmanager
def disk(name: str) -> Iterator[None]:
    """Say what a disk's refusal means for the file `name`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DownloadFailed(
                f"the disk is full while {name} is written",
                hint="use a larger volume, or remove models that are no longer needed; what has come is kept",
                code="disk_full",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}:
            raise DownloadFailed(
                f"the folder of {name} cannot be written by this service: {os.strerror(error.errno or 0)}",
                hint="mount a volume that the service's user (10001 in the images) may write to, or build the "
                "image with `akashllm build --own-volume`, which takes the volume over before it starts",
                code="disk_denied",
            ) from error
        raise DownloadFailed(f"{name} cannot be written: {error.strerror or error}") from error


def gib(size: int) -> str:
    """A size as people say it."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / (1 << 20):.1f} MiB"


def held(into: Path) -> int:
    """Bytes of the disk that an unfinished download of `into` has already."""
    try:
        return _beside(into)[0].stat().st_blocks * _BLOCK
    except OSError:
        return 0


def discard(into: Path) -> None:
    """Remove what there is of an unfinished download of `into`."""
    for path in _beside(into):
        path.unlink(missing_ok=True)


def _beside(into: Path) -> tuple[Path, Path]:
    return into.with_name(f".{into.name}.partial"), into.with_name(f".{into.name}.partial.json")


async def _lock(descriptor: int) -> None:
    """Wait, without a thread, until no other process or task has this file.

    On a volume without locks there is none to wait for: what two processes write is held against the digest.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_POLL)
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
            return
        else:
            return


def _exists(path: Path) -> bool:
    return path.exists()


def _same(descriptor: int, path: Path) -> bool:
    """Whether the file we hold still has that name: its last holder may have finished or removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _write(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _believable(known: Any, source: str, on_disk: int) -> tuple[int, Ranges]:
    """Size and ranges of a record. Raises `ValueError` for one that is another's, or nonsense."""
    try:
        version, size, done = known["version"], known["size"], Ranges(known["done"])
        if version != _RECORD or known["source"] != source or not isinstance(known["validator"], str):
            raise ValueError("a record of something else")
        last = max((end for _, end in done), default=0)
        if not isinstance(size, int) or not last <= min(size, on_disk):
            raise ValueError("a record that cannot be true")
    except (KeyError, TypeError, BadName) as error:
        raise ValueError("no record") from error
    return size, done
