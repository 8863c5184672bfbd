"""Services with a store, and files to make models of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from akashllm.models import TINY
from akashllm.names import DEFAULT_HOST, REGISTRIES
from akashllm.server.models.store import ModelStore
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from akashllm.testing.files import running_files
from tests.ollama.conftest import serving
from tests.store.conftest import Shelf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store."""
    return tmp_path / "models"


@pytest.fixture
def store(root: Path) -> ModelStore:
    """The store there."""
    return ModelStore(root)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A registry in the place of Ollama's; nobody answers for the others."""
    with running_files() as server:
        yield Shelf(server)


@pytest.fixture
def service(root: Path, shelf: Shelf) -> Iterator[str]:
    """A service over that store, opened to everyone on the machine as Ollama is."""
    mirrors = dict.fromkeys(REGISTRIES, "http://127.0.0.1:1") | {DEFAULT_HOST: shelf.server.url}
    settings = Settings(
        models=str(root),
        registry_mirrors=tuple(mirrors.items()),
        manage_unauthenticated=True,
        log_level="error",
    )
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
