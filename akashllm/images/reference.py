"""Image references as registries read them: `[registry/]repository[:tag][@digest]`.

The grammar is that of the distribution project (`reference/reference.go`); what a person leaves out is Docker
Hub and its `library`, as every engine has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from akashllm.digests import Sha256
from akashllm.errors import BadName

HUB = "docker.io"
MAX_NAME = 255

_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
    r"(?::[0-9]{1,5})?",
    re.ASCII,
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_HINT = "write it as registry/repository:tag, for example ghcr.io/me/akashllm:0.1.0"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A well-formed reference. `name` is as it was written, without tag and digest."""

    name: str
    tag: str | None = None
    digest: Sha256 | None = None

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME:
            raise BadName(f"an image's name has at most {MAX_NAME} characters", hint=_HINT)
        host, path = self._split()
        if not _HOST.fullmatch(host) or not all(_PART.fullmatch(part) for part in path.split("/")):
            raise BadName(
                "malformed image name: it has small letters, digits, and single . _ - or / between them",
                hint=_HINT,
            )
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise BadName("malformed image tag: it has letters, digits, . _ and -", hint=_HINT)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference `text` says. Raises `BadName`, whose message never repeats `text`."""
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        return cls(head + slash + last, tag if colon else None, Sha256.parse(digest) if at else None)

    @property
    def registry(self) -> str:
        """The registry's host, with its port if one was written."""
        return self._split()[0]

    @property
    def repository(self) -> str:
        """The repository's path at its registry, `library/` included."""
        host, path = self._split()
        return f"library/{path}" if host == HUB and "/" not in path else path

    def pinned(self, digest: Sha256) -> str:
        """The reference that names exactly one image, its tag kept for the reader."""
        return f"{self.name}{f':{self.tag}' if self.tag else ''}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"

    def _split(self) -> tuple[str, str]:
        first, slash, rest = self.name.partition("/")
        if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
            return first, rest
        return HUB, self.name
