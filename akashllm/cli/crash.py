"""Secrets kept out of what is printed, and the traceback of an unexpected failure kept in a private file."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from akashllm.errors import StateError
from akashllm.state import Home
from akashllm.state.home import private_directory
from akashllm.state.private import write_private
from akashllm.version import __version__

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST = 8
"""A shorter value may be an ordinary word, and replacing that would only confuse."""


def redacted(text: str) -> str:
    """`text` without any secret that this process could know: of its environment, and of its deployments."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


def save_traceback(error: BaseException, command: str) -> Path:
    """Write the traceback to a file of mode 0600; its path. Values of variables are not in it."""
    trace = "".join(traceback.format_exception(error))
    text = redacted(f"akashllm {__version__}, command {command}\n\n{trace}")
    try:
        directory = Home.find().prepare().crashes
        private_directory(directory)
    except StateError:
        directory = Path(tempfile.mkdtemp(prefix="akashllm-"))
    path = directory / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    write_private(path, text)
    return path


def _secrets() -> set[str]:
    found = {value for name, value in os.environ.items() if _NAMES.search(name)}
    with suppress(StateError, OSError):
        for path in Home.find().root.glob("*/*/*-key*"):
            found.add(path.read_text(errors="replace").strip())
    return {secret for secret in found if len(secret) >= _SHORTEST and not Path(secret).is_absolute()}
