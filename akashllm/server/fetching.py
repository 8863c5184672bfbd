"""From the settings to the weights they name, wherever those are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from akashllm.errors import BadName, UsageError
from akashllm.names import ModelName, admit
from akashllm.server.domain import ModelInfo
from akashllm.server.engine import Engine
from akashllm.server.engines.fetched import FetchedEngine
from akashllm.server.models.hub import Hub
from akashllm.server.models.origin import Origin, parse_origin
from akashllm.server.models.pulled import PulledWeights
from akashllm.server.models.registry import Registries
from akashllm.server.models.source import Patience
from akashllm.server.models.store import ModelStore
from akashllm.server.models.weights import Choice, HubWeights, UrlWeights, Weights
from akashllm.server.models.whispers import REPOSITORIES
from akashllm.server.settings import PREFIX, Settings


def weights_for(settings: Settings, *, choice: Choice = "gguf") -> Weights | None:
    """What AKASHLLM_MODEL names, if it has to be fetched; None for what is on this machine.

    choice      what of a repository is needed: `folder` for vLLM, `whisper` for faster-whisper, `vision` with
                an image projector
    Raises `UsageError` for a name that means nothing.
    """
    return None if settings.weights else weights_of(settings.model, settings, choice=choice)


def fetched(
    settings: Settings,
    build: Callable[[Path], Engine],
    *,
    name: str,
    choice: Choice = "gguf",
    kind: type[FetchedEngine] = FetchedEngine,
) -> FetchedEngine | None:
    """The engine that `build` makes once the weights are here; None where they are on this machine anyway."""
    weights = weights_for(settings, choice=choice)
    if weights is None:
        return None
    info = ModelInfo(name=settings.served_name, slots=settings.concurrency)
    return kind(weights, build, name=name, info=info)


def model_path(settings: Settings, engine: Engine) -> Path | None:
    """The deployed model's file or folder, if it is here now."""
    return engine.file if isinstance(engine, FetchedEngine) else settings.model_file


def weights_of(text: str, settings: Settings, *, choice: Choice = "gguf") -> Weights | None:
    """The weights that `text` names (see `akashllm.server.models.origin`), or None for a path."""
    admit(settings.registries)
    try:
        origin = parse_origin(text)
    except BadName as error:
        raise UsageError(f"{PREFIX}MODEL: {error.message}", hint=error.hint) from error
    root = data_folder(settings)
    if choice == "whisper" and text in REPOSITORIES and not Path(text).exists():
        origin = parse_origin(f"hf.co/{REPOSITORIES[text]}")
    if choice in {"folder", "whisper"}:
        return _folder_of(origin, root, settings, choice)
    match origin.kind:
        case "hub":
            return HubWeights(hub_of(settings), origin, root, choice)
        case "url":
            return UrlWeights(origin, root, patience=_patience(settings))
        case "library":
            return None if Path(origin.name).exists() else _of_library(origin, settings)
        case "local":
            return None


def _folder_of(origin: Origin, root: Path, settings: Settings, choice: Choice) -> Weights | None:
    """What is read as a folder: one of this machine, or a repository, which people also write as `org/repo`."""
    if origin.kind == "library" and origin.name.count("/") == 1 and not Path(origin.name).exists():
        origin = parse_origin(f"hf.co/{origin.name}")
    if origin.kind == "url" or origin.file or origin.quant:
        raise UsageError(
            f"{origin.shown} names one file, and this engine reads a whole repository",
            hint=f"set {PREFIX}MODEL to hf.co/org/repo, or use the engine llamacpp for a GGUF file",
        )
    return HubWeights(hub_of(settings), origin, root, choice) if origin.kind == "hub" else None


def hub_of(settings: Settings) -> Hub:
    """The hub of the settings, with their token."""
    return Hub(endpoint=settings.hf_endpoint, token=settings.hf_token, patience=_patience(settings))


def _patience(settings: Settings) -> Patience:
    """More than a request has: nothing works before the weights are here. The hub counts in five minutes."""
    return Patience(attempts=8, read=settings.download_timeout, longest=300.0)


def data_folder(settings: Settings) -> Path:
    """Where fetched weights are kept: the volume, or this user's cache."""
    if settings.data:
        return Path(settings.data)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "akashllm"


def _of_library(origin: Origin, settings: Settings) -> Weights:
    """A model that Ollama's registry has, in the store of the settings or else on the volume."""
    store = ModelStore(Path(settings.models) if settings.models else data_folder(settings) / "models")
    registries = Registries(settings.registries, settings.registry_mirrors, settings.registry_auth)
    return PulledWeights(store, registries, ModelName.parse(origin.name))
