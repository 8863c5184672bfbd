"""From the settings to the weights they name, wherever those are."""

from __future__ import annotations

import os
from pathlib import Path

from akashllm.errors import BadName, UsageError
from akashllm.server.models.hub import Hub
from akashllm.server.models.origin import Origin, parse_origin
from akashllm.server.models.weights import Choice, HubWeights, UrlWeights, Weights
from akashllm.server.settings import PREFIX, Settings


def weights_for(settings: Settings, *, choice: Choice = "gguf") -> Weights | None:
    """What AKASHLLM_MODEL names, if it has to be fetched; None for what is on this machine.

    choice      what of a repository is needed: `folder` for vLLM, `vision` with an image projector
    Raises `UsageError` for a name that means nothing.
    """
    if settings.weights or settings.model_file.exists():
        return None
    return weights_of(settings.model, settings, choice=choice)


def weights_of(text: str, settings: Settings, *, choice: Choice = "gguf") -> Weights | None:
    """The weights that `text` names (see `akashllm.server.models.origin`), or None for a path."""
    try:
        origin = parse_origin(text)
    except BadName as error:
        raise UsageError(f"{PREFIX}MODEL: {error.message}", hint=error.hint) from error
    root = data_folder(settings)
    match origin.kind:
        case "hub":
            return HubWeights(hub_of(settings), origin, root, choice)
        case "url":
            return UrlWeights(origin, root)
        case "library":
            return _of_library(origin)
        case "local":
            return None


def hub_of(settings: Settings) -> Hub:
    """The hub of the settings, with their token."""
    return Hub(endpoint=settings.hf_endpoint, token=settings.hf_token)


def data_folder(settings: Settings) -> Path:
    """Where fetched weights are kept: the volume, or this user's cache."""
    if settings.data:
        return Path(settings.data)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "akashllm"


def _of_library(origin: Origin) -> Weights | None:
    raise UsageError(
        f"{origin.name} is neither a file here nor a repository",
        hint=f"set {PREFIX}MODEL to a path, hf.co/org/repo:QUANT or the address of a file; names of Ollama's "
        "library are for the engine ollama",
    )
