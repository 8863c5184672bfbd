"""Files that hold a secret: mode 0600 from the first byte, replaced whole, never followed through a link."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from akashllm.errors import StateError
from akashllm.state.home import check_private

MAX_BYTES = 4 << 20


def write_private(path: Path, text: str) -> None:
    """Put `text` at `path`: either all of it is there afterwards, or what was there before."""
    # mkstemp makes the file with mode 0600 and refuses one that exists.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_private(path: Path) -> str:
    """The text at `path`. Raises `StateError` where it is missing, a link, or open to others."""
    try:
        check_private(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        raise StateError(
            f"{path} is not there", hint="somebody removed it; `akashllm close` and deploy again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} cannot be read: {error}", hint="check its owner and mode, or deploy again"
        ) from error
