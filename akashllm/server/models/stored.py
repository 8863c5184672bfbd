"""A model of the store, as what serves it needs it: files, and what its Modelfile says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akashllm.names import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One manifest of the store, its small layers read, its large ones as paths that exist.

    digest       sha256 of the manifest's bytes, 64 hexadecimal digits
    size         bytes of all layers and the config
    modified     nanoseconds since 1970
    weights      the GGUF file;  projectors, adapters: further GGUF files
    template     Modelfile TEMPLATE (Go syntax) or None: the GGUF's own Jinja template serves
    parameters   Modelfile PARAMETERs, typed: `stop` is a tuple of strings
    messages     Modelfile MESSAGEs as (role, content)
    config       the config blob (model_family, file_type, ...)
    layers       (media type, digest, size) in the manifest's order
    """

    name: ModelName
    digest: str
    size: int
    modified: int
    weights: Path
    projectors: tuple[Path, ...] = ()
    adapters: tuple[Path, ...] = ()
    template: str | None = None
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[tuple[str, str, int], ...] = ()

    @property
    def go_template(self) -> str | None:
        """The TEMPLATE to render chats with; None where the GGUF's own serves.

        Models of Ollama's library that name a RENDERER have a TEMPLATE that only holds its place.
        """
        if self.template is None or not self.template.strip():
            return None
        held = self.template.replace(" ", "").strip() == "{{.Prompt}}"
        return None if held and self.config.get("renderer") else self.template
