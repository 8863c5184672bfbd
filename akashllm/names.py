"""Model names: the only place that turns user text into a name, a path part or a repository id.

The grammar is Ollama's (`types/model/name.go`): `[host/][namespace/]model[:tag]`, split at the last colon
after the last slash and then at slashes. Narrower in three places, because a name here may become a file path
or a URL: no `scheme://`, no `@digest`, and a host only if it is a registry on the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from akashllm.errors import BadName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

REGISTRIES = frozenset({DEFAULT_HOST, "hf.co", "huggingface.co"})
"""Hosts a name may carry: Ollama's own library and the two spellings of the Hugging Face Hub."""

_admitted: set[str] = set()
_HOST = re.compile(
    r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?)*(:[0-9]{1,5})?", re.ASCII
)

MAX_LENGTH = 350
"""Characters in a whole name; each part but the host is held to 80."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_SHAPE = "write it as model:tag, or namespace/model:tag"


def admit(hosts: Iterable[str]) -> None:
    """Let names carry further registries, for the life of the process: the operator's list, never a client's.

    A host is `registry.example.org` or `127.0.0.1:5000`. Raises `BadName` for anything else.
    """
    for host in hosts:
        if not is_host(host):
            raise BadName("invalid registry", hint="write its host, and a port if it has one: localhost:5000")
        _admitted.add(host.lower())


def is_host(text: str) -> bool:
    """Whether `text` is a host, with or without a port, that is safe as a path part and in a URL."""
    return len(text) <= 253 and _HOST.fullmatch(text.lower()) is not None


def registries() -> frozenset[str]:
    """Every host that a name may carry now, in lower case."""
    return REGISTRIES | _admitted


def deployment_name(text: str) -> str:
    """A name for a deployment after `text`: up to 32 small letters, digits and hyphens, a letter first."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")
    return slug if slug and slug[0].isalpha() else f"m-{slug}"[:32].strip("-")


@dataclass(frozen=True, slots=True, eq=False)
class ModelName:
    """A well-formed model name. Every instance is valid: the constructor raises `BadName` too.

    Parts keep the case they were written in; equality and hashing ignore it, as Ollama's lookups do.
    """

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST

    def __post_init__(self) -> None:
        if not _PART.fullmatch(self.model):
            raise BadName("invalid model name", hint=_SHAPE)
        if not _PART.fullmatch(self.tag):
            raise BadName("invalid model name: the tag is malformed", hint=_SHAPE)
        if not _NAMESPACE.fullmatch(self.namespace):
            raise BadName("invalid model name: the namespace is malformed", hint=_SHAPE)
        if self.host.lower() not in REGISTRIES and self.host.lower() not in _admitted:
            raise BadName(
                "invalid model name: its host is not a known registry",
                hint=f"the known ones are {', '.join(sorted(registries()))}",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name `text` says, with Ollama's defaults for what it leaves out. Raises `BadName`.

        The message never repeats `text`, so it is safe to show and to log.
        """
        if not text:
            raise BadName("invalid model name: it is empty", hint=_SHAPE)
        if len(text) > MAX_LENGTH:
            raise BadName(f"invalid model name: longer than {MAX_LENGTH} characters", hint=_SHAPE)
        path, slash, last = text.rpartition("/")
        model, colon, tag = last.partition(":")
        parts = path.split("/") if slash else []
        if len(parts) > 2:
            raise BadName("invalid model name: too many slashes", hint=_SHAPE)
        namespace = parts[-1] if parts else DEFAULT_NAMESPACE
        host = parts[0] if len(parts) > 1 else DEFAULT_HOST
        return cls(model, tag if colon else DEFAULT_TAG, namespace, host)

    def __str__(self) -> str:
        """The shortest form that names it: defaults dropped from the left, the tag always shown."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """All four parts: `registry.ollama.ai/library/llama3:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def canonical(self) -> str:
        """The display form in lower case: equal for two names exactly if the names are equal."""
        return str(self).lower()

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag in lower case: four safe path parts, none of them `.` or `..`."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    def __eq__(self, other: object) -> bool:
        return self.parts == other.parts if isinstance(other, ModelName) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.parts)
