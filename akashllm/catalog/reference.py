"""Names of models that are in no catalogue: a hub's repository, a file, an Ollama name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from akashllm.plan import EngineName

Where = Literal["hub", "file", "ollama"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A model outside the catalogue.

    where       hub (Hugging Face), file (a GGUF on this machine), ollama (its library)
    name        `org/repo`, a path, or `[namespace/]model`
    tag         a quantisation for the hub, a tag for Ollama
    revision    for the hub: a branch, a tag or a commit; empty: the main branch
    file        for the hub: the GGUF that is meant; empty: chosen by its quantisation
    """

    where: Where
    name: str
    tag: str = ""
    revision: str = ""
    file: str = ""


_HUB = re.compile(
    r"(?:hf\.co|huggingface\.co)/(?P<repo>[^/:@]+/[^/:@]+)(?:@(?P<revision>[^/:@]+))?"
    r"(?:/(?P<file>[^:@]+\.gguf)|:(?P<quant>[^/:@]+))?"
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_OLLAMA = re.compile(
    r"(?P<name>(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)(?::(?P<tag>[\w][\w.-]*))?", re.ASCII
)


def parse_reference(name: str, engine: EngineName) -> Reference | None:
    """What a name outside the catalogue refers to, or None where it can only be a catalogue name.

    `namespace/model` is Ollama's library for the engine ollama and a hub repository for the others.
    """
    hub = _HUB.fullmatch(name)
    if hub:
        return Reference("hub", hub["repo"], hub["quant"] or "", hub["revision"] or "", hub["file"] or "")
    if name.endswith(".gguf"):
        return Reference("file", name)
    if engine != "ollama" and _REPOSITORY.fullmatch(name):
        return Reference("hub", name)
    ollama = _OLLAMA.fullmatch(name)
    if ollama and engine == "ollama":
        return Reference("ollama", ollama["name"], ollama["tag"] or "latest")
    return None
