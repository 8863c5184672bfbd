"""Models in a store's folder, made by hand: what Ollama would have left there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from akashllm.digests import Sha256
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.models import manifest as kinds
from akashllm.server.models.manifest import Layer, Manifest


def blob(root: Path, data: bytes, media_type: str) -> Layer:
    """A file of the store."""
    digest = Sha256.of(data)
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / digest.filename).write_bytes(data)
    return Layer(media_type=media_type, digest=str(digest), size=len(data))


def model(root: Path, name: str, weights: bytes = b"", config: Any = None, **layers: Any) -> Manifest:
    """A model: `weights` (the bundled model by default), and `template`, `system`, `params`, ... as layers."""
    parsed = ModelName.parse(name)
    found = [blob(root, weights or TINY.read_bytes(), kinds.MODEL)]
    for kind, value in layers.items():
        data = value if isinstance(value, bytes) else value if isinstance(value, str) else json.dumps(value)
        found.append(
            blob(root, data.encode() if isinstance(data, str) else data, f"application/vnd.ollama.image.{kind}")
        )
    if config is None:
        config = {"model_format": "gguf", "model_family": "llama", "architecture": "amd64", "os": "linux"}
    manifest = Manifest(config=blob(root, json.dumps(config).encode(), kinds.CONFIG), layers=found)
    path = root / "manifests" / parsed.host / parsed.namespace / parsed.model / parsed.tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest.encode())
    return manifest


def files(root: Path) -> set[str]:
    """Every file below `root`, by its path in it, but for the lock."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {".lock"}
