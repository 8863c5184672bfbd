"""A file server that can be told to misbehave, and patience that does not wait."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from akashllm.server.models.source import Patience
from akashllm.testing.files import FileServer, running_files

SOON = Patience(attempts=4, connect=5.0, read=5.0, pause=0.0)
HASTY = Patience(attempts=4, connect=5.0, read=1.0, pause=0.0)
"""For servers that stall: what is waited for is their silence."""


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that differ at every place."""
    return random.Random(seed).randbytes(size)


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A file server."""
    with running_files() as running:
        yield running
