"""The SDL as types, its rules, its manifest and its secrets. Nothing here opens a file or a socket."""

from __future__ import annotations

from akashllm.errors import BadSdl
from akashllm.sdl.document import BadYaml, parse
from akashllm.sdl.findings import Finding
from akashllm.sdl.manifest import group_specs, manifest, manifest_hash, manifest_json
from akashllm.sdl.reading import read
from akashllm.sdl.secrets import fill, is_placeholder, placeholder, placeholders, sealed
from akashllm.sdl.types import Sdl, Service

__all__ = [
    "Finding",
    "Sdl",
    "Service",
    "environment",
    "fill",
    "group_specs",
    "is_placeholder",
    "load",
    "manifest",
    "manifest_hash",
    "manifest_json",
    "placeholder",
    "placeholders",
    "sealed",
]


def load(text: str, *, source: str = "deploy.yaml") -> Sdl:
    """The SDL as types. `BadSdl` carries every error the rules find; warnings do not stop it."""
    try:
        return read(parse(text))
    except BadYaml as error:
        raise BadSdl(f"{source}:{error.line}: {error.message}", hint=error.fix) from None


def environment(sdl: Sdl, service: str) -> dict[str, str]:
    """The variables a service's container gets, as its manifest says; a name without `=` is empty."""
    pairs = (entry.partition("=") for entry in sdl.services[service].env)
    return {name: value for name, _, value in pairs}
