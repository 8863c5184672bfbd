"""The SDL as types, its rules, its manifest and its secrets. Nothing here opens a file or a socket."""

from __future__ import annotations

from akashllm.errors import BadSdl
from akashllm.sdl.document import BadYaml, parse
from akashllm.sdl.findings import Finding
from akashllm.sdl.manifest import group_specs, manifest, manifest_hash, manifest_json
from akashllm.sdl.reading import read
from akashllm.sdl.revise import with_variable
from akashllm.sdl.rules import RULES, check, validate
from akashllm.sdl.secrets import fill, is_placeholder, placeholder, placeholders, sealed
from akashllm.sdl.types import Sdl, Service

__all__ = [
    "RULES",
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
    "validate",
    "with_variable",
]


def load(text: str, *, source: str = "deploy.yaml") -> Sdl:
    """The SDL as types. `BadSdl` carries every error the rules find; warnings do not stop it."""
    try:
        document = parse(text)
    except BadYaml as error:
        raise BadSdl(f"{source}:{error.line}: {error.message}", hint=error.fix) from None
    errors = [finding for finding in check(document) if finding.severity == "error"]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadSdl(
            f"{source}:{first.line}: {first.message}{more}",
            [str(finding) for finding in errors],
            hint=first.fix,
        )
    return read(document)


def environment(sdl: Sdl, service: str) -> dict[str, str]:
    """The variables a service's container gets, as its manifest says; a name without `=` is empty."""
    pairs = (entry.partition("=") for entry in sdl.services[service].env)
    return {name: value for name, _, value in pairs}
