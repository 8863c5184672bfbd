"""The Docker engine: found as Docker's own command finds it, and its failures as sentences."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from akashllm.digests import Sha256
from akashllm.errors import AkashllmError, ImageFailed, Unreachable, UsageError
from akashllm.images.reference import ImageReference

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
SILENCE = 600
"""Seconds an engine may say nothing in an answer: a registry that takes in a large layer is quiet that long."""

PATIENCE = 5
"""Seconds to find out whether an engine is there."""

_START = "start Docker, or name a running engine in DOCKER_HOST"
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of an image's history that holds files. `size` is in bytes, unpacked."""

    size: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the engine has it. `size` is in bytes, unpacked; `digests` are its names at registries."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    platform: str
    size: int
    layers: tuple[Layer, ...]


class DockerEngine:
    """A connection to one engine; a context manager. `api` is the SDK's low-level client."""

    def __init__(self, api: docker.APIClient, address: str) -> None:
        # The SDK has no types of its own.
        self.api: Any = api
        self.address = address

    @classmethod
    def connect(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The engine that DOCKER_HOST, the chosen Docker context or the default names, once it has answered.

        Raises `Unreachable`.
        """
        environ = dict(os.environ if environ is None else environ)
        with explained("the Docker engine"):
            where = _where(environ)
            address = _USERINFO.sub("", where.get("base_url") or DEFAULT_ADDRESS)
            try:
                _knock(address)
                probe = docker.APIClient(version="auto", timeout=PATIENCE, **where)
            except (DockerException, requests.RequestException, OSError) as error:
                raise _absent(address, error) from None
            probe.timeout = SILENCE
        return cls(probe, address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.api.close()

    def version(self) -> dict[str, Any]:
        """What the engine says of itself: Version, ApiVersion, Os, Arch ..."""
        with explained("the Docker engine"):
            return dict(self.api.version())

    def info(self) -> dict[str, Any]:
        """Its storage driver, data directory, runtimes and the like."""
        with explained("the Docker engine"):
            return dict(self.api.info())

    def image(self, name: str) -> Image:
        """One image by name or id. Raises `UsageError` if the engine has none of that name."""
        with explained("the Docker engine"):
            try:
                found = self.api.inspect_image(name)
                history = self.api.history(name)
            except ImageNotFound:
                raise UsageError(
                    "this Docker engine has no image of that name",
                    hint="`akashllm build` makes one, `akashllm images` lists them",
                ) from None
        platform = "/".join(filter(None, (found["Os"], found["Architecture"], found.get("Variant"))))
        return Image(
            id=found["Id"],
            tags=tuple(found.get("RepoTags") or ()),
            digests=tuple(found.get("RepoDigests") or ()),
            platform=platform,
            size=found["Size"],
            # The newest first, as `docker history` has it.
            layers=tuple(Layer(step["Size"], step["CreatedBy"]) for step in history if step["Size"]),
        )

    def has(self, name: str) -> bool:
        """Whether the engine has an image of that name and tag."""
        with explained("the Docker engine"):
            try:
                self.api.inspect_image(name)
            except ImageNotFound:
                return False
        return True

    def images(self) -> tuple[Image, ...]:
        """Every image of ours that the engine has, by its title label."""
        with explained("the Docker engine"):
            found = self.api.images(filters={"label": "org.opencontainers.image.title"})
        ours = [
            entry
            for entry in found
            if str((entry.get("Labels") or {}).get("org.opencontainers.image.title", "")).startswith(
                "akashllm "
            )
            and any(not tag.startswith("<none>") for tag in entry.get("RepoTags") or ())
        ]
        return tuple(self.image(entry["Id"]) for entry in ours)

    def digests(self, reference: ImageReference) -> frozenset[Sha256]:
        """What the repository calls the image, as far as this engine pushed or pulled it."""
        known = [ImageReference.parse(name) for name in self.image(str(reference)).digests]
        return frozenset(
            name.digest
            for name in known
            if name.digest and (name.registry, name.repository) == (reference.registry, reference.repository)
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the SDK's exceptions into ours. `what` is the subject of the sentence."""
    try:
        yield
    except AkashllmError:
        raise
    except APIError as error:
        said = str(error.explanation or error).strip().splitlines() or ["no reason given"]
        raise ImageFailed(f"{what} refused: {_USERINFO.sub('', said[0])[:300]}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise Unreachable(f"{what} does not answer any more ({type(error).__name__})", hint=_START) from error


def _where(environ: Mapping[str, str]) -> dict[str, Any]:
    """Address and TLS, in the order of Docker's own command."""
    if environ.get("DOCKER_HOST"):
        return dict(kwargs_from_env(environment=dict(environ)))
    context = ContextAPI.get_context(environ.get("DOCKER_CONTEXT") or None)
    host = getattr(context, "Host", None)
    if not host:
        return {"base_url": DEFAULT_ADDRESS}
    where: dict[str, Any] = {"base_url": host}
    if context.TLSConfig is not None:
        where["tls"] = context.TLSConfig
    return where


def _knock(address: str) -> None:
    """Try a Unix socket before the SDK does: it leaks its own when nobody answers, and hides why."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PATIENCE)
            probe.connect(address.removeprefix("unix://"))


def _absent(address: str, error: Exception) -> Unreachable:
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        return Unreachable(
            f"this user may not use the Docker engine at {address}",
            hint="add yourself to the group docker (sudo usermod -aG docker $USER) and log in again",
        )
    return Unreachable(f"no Docker engine answers at {address}", hint=_START)
