"""SHA-256 digests, and files that only come into being when their content is the content promised."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from akashllm.errors import BadName, DigestMismatch

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Sha256:
    """A digest: 64 lower-case hexadecimal digits and nothing else. Raises `BadName` for any other text."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise BadName("invalid digest format", hint="write sha256: and 64 lower-case hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>` (manifests, URLs) or `sha256-<hex>` (file names)."""
        if not text.startswith(("sha256:", "sha256-")):
            raise BadName("invalid digest format", hint="write sha256: and 64 lower-case hexadecimal digits")
        return cls(text[len("sha256:") :])

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of bytes in memory."""
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The digest of a file's content. Reads all of it: keep it off the event loop."""
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest())

    @property
    def filename(self) -> str:
        """`sha256-<hex>`, as Ollama names its blobs."""
        return f"sha256-{self.hex}"

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


class VerifiedWriter:
    """Write a file that exists under its final name only if it is what was promised.

    A context manager: bytes go to a temporary file beside `path`; leaving the block without an error checks
    the size and the digest, flushes to the disk and renames. Any error, a mismatch included, removes the
    temporary file and leaves whatever was at `path` as it was. Raises `DigestMismatch`.
    """

    def __init__(self, path: Path, *, digest: Sha256 | None = None, size: int | None = None) -> None:
        self.path = path
        self.expected = digest
        self.size = size
        self.written = 0
        self._hash = hashlib.sha256()
        self._descriptor = -1
        self._temporary = path

    @property
    def digest(self) -> Sha256:
        """The digest of what has been written so far."""
        return Sha256(self._hash.hexdigest())

    def write(self, data: bytes) -> None:
        """Append bytes. Refuses the first byte beyond the promised size, before it is written."""
        if self.size is not None and self.written + len(data) > self.size:
            raise DigestMismatch(f"more than the promised {self.size} bytes came for {self.path.name}")
        self._hash.update(data)
        self.written += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view[:_CHUNK]) :]

    def __enter__(self) -> Self:
        self._descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        self._temporary = Path(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                if kind is None:
                    self._check()
                    os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)
            if kind is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        if self.size is not None and self.written != self.size:
            raise DigestMismatch(
                f"{self.path.name} has {self.written} bytes where {self.size} were promised",
                hint="fetch it again: the transfer was cut",
            )
        if self.expected is not None and self.digest != self.expected:
            raise DigestMismatch(
                f'digest mismatch, expected "{self.expected}", got "{self.digest}"',
                hint="fetch it again; if it stays, the source does not hold what it promises",
            )
