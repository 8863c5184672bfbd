"""Services with a store, and files to make models of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from akashllm.models import TINY
from akashllm.server.models.store import ModelStore
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from tests.ollama.conftest import serving


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store."""
    return tmp_path / "models"


@pytest.fixture
def store(root: Path) -> ModelStore:
    """The store there."""
    return ModelStore(root)


@pytest.fixture
def service(root: Path) -> Iterator[str]:
    """A service over that store, opened to everyone on the machine as Ollama is."""
    settings = Settings(models=str(root), manage_unauthenticated=True, log_level="error")
    with serving(ScriptedEngine(), settings) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[ollama.Client]:
    """The official client."""
    found = ollama.Client(host=service)
    yield found
    found._client.close()


@pytest.fixture(scope="session")
def weights() -> bytes:
    """A whole GGUF file."""
    return TINY.read_bytes()
