"""A registry that lies as it is told to, a real one, and services with a store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from akashllm.digests import Sha256
from akashllm.names import REGISTRIES
from akashllm.server.models import manifest as kinds
from akashllm.server.models.manifest import Layer, Manifest
from akashllm.server.models.registry import Registries
from akashllm.server.models.source import Patience
from akashllm.server.models.store import ModelStore
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from akashllm.testing.files import FileServer, running_files
from tests.images.conftest import registry
from tests.ollama.conftest import serving

__all__ = ["registry"]

HOST = "registry.ollama.ai"
SOON = Patience(attempts=3, connect=5.0, read=5.0, pause=0.0)


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that differ at every place."""
    return random.Random(seed).randbytes(size)


class Shelf:
    """A scripted registry: `server` misbehaves as it is told to, `offer` puts models on it."""

    def __init__(self, server: FileServer) -> None:
        self.server = server

    def offer(self, name: str = "library/m", tag: str = "latest", **layers: bytes) -> Manifest:
        """A model whose layers are given by kind; `model` comes first."""
        config = self._blob(name, b'{"model_format":"gguf"}', kinds.CONFIG)
        found = [
            self._blob(name, data, f"application/vnd.ollama.image.{kind}") for kind, data in layers.items()
        ]
        manifest = Manifest(config=config, layers=found)
        self.server.put(f"/v2/{name}/manifests/{tag}", manifest.encode())
        return manifest

    def _blob(self, name: str, data: bytes, media_type: str) -> Layer:
        digest = Sha256.of(data)
        self.server.put(f"/v2/{name}/blobs/{digest}", data)
        return Layer(media_type=media_type, digest=str(digest), size=len(data))

    def registries(self, auth: str | None = None) -> Registries:
        """The service's list, with this registry in the place of Ollama's."""
        return Registries((), [(HOST, self.server.url)], auth, patience=SOON)

    def blobs(self) -> list[str]:
        """The digests of the files that were asked for."""
        return [asked.path.rpartition("/")[2] for asked in self.server.seen if "/blobs/" in asked.path]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A scripted registry."""
    with running_files() as server:
        yield Shelf(server)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store."""
    return ModelStore(tmp_path / "models")


KEY = "a-key-of-everyday-use-0123456789"
ADMIN = "the-key-of-the-one-who-decides-987"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store."""
    return tmp_path / "models"


@pytest.fixture
def service(root: Path, registry: str) -> Iterator[str]:
    """A service with a store and no key, on loopback, opened to everyone on the machine as Ollama is."""
    settings = Settings(
        models=str(root), registries=(registry,), manage_unauthenticated=True, log_level="error"
    )
    with serving(ScriptedEngine(), settings) as url:
        yield url


@pytest.fixture
def locked_service(root: Path, registry: str) -> Iterator[str]:
    """A service with a store, a key and an admin key; nobody answers where the public registries should be."""
    settings = Settings(
        models=str(root),
        registries=(registry,),
        api_key=KEY,
        admin_key=ADMIN,
        registry_mirrors=tuple((host, "http://127.0.0.1:1") for host in REGISTRIES),
        max_blob_bytes=1 << 20,
        log_level="error",
    )
    with serving(ScriptedEngine(), settings) as url:
        yield url
