"""Push an image, and learn the one name that can never mean another: its digest at the registry."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from akashllm.digests import Sha256
from akashllm.errors import ImageFailed, Unreachable
from akashllm.images.engine import DockerEngine, explained
from akashllm.images.events import OnEvent, ignore, read
from akashllm.images.reference import ImageReference

_REFUSED = ("denied", "unauthorized", "no basic auth credentials", "authentication required", "forbidden")
_AWAY = ("no such host", "connection refused", "i/o timeout", "deadline exceeded", "no route to host")


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image at a registry. `pinned` is what an SDL should say."""

    reference: ImageReference
    digest: Sha256
    seconds: float

    @property
    def pinned(self) -> str:
        """The reference with its digest."""
        return self.reference.pinned(self.digest)


def push(engine: DockerEngine, source: str, target: ImageReference, *, on_event: OnEvent = ignore) -> Pushed:
    """Push the image `source` as `target`, with the credentials that `docker login` stored.

    Raises `ImageFailed`, or `Unreachable` where the registry does not answer the engine.
    """
    started = time.monotonic()
    answered: Sha256 | None = None
    with explained("the push"):
        engine.api.tag(source, target.name, target.tag, force=True)
        stream = engine.api.push(target.name, tag=target.tag, stream=True, decode=True)
        with closing(stream):
            for event in read(stream):
                on_event(event)
                if event.kind == "error":
                    raise _failure(target, event.text)
                if event.kind == "aux" and event.data and event.data.get("Digest"):
                    answered = Sha256.parse(str(event.data["Digest"]))
    known = engine.digests(target)
    if answered is None and len(known) == 1:
        (answered,) = known
    if answered is None or answered not in known:
        raise ImageFailed(
            f"{target.registry} took the image but gave no digest for it",
            hint="push again, and look at the repository before you deploy from it",
        )
    return Pushed(target, answered, time.monotonic() - started)


def _failure(target: ImageReference, said: str) -> ImageFailed | Unreachable:
    lowered = said.lower()
    if "server gave http response to https client" in lowered:
        return ImageFailed(
            f"{target.registry} speaks plain HTTP, which the engine does not accept from it",
            hint="give the registry a certificate, or list it in the engine's insecure-registries",
        )
    if any(word in lowered for word in _REFUSED):
        return ImageFailed(
            f"{target.registry} does not let this user push to {target.repository}",
            hint=f"run: docker login {target.registry}; and see that the repository is yours",
        )
    if any(word in lowered for word in _AWAY):
        return Unreachable(
            f"the engine cannot reach {target.registry}", hint="check the name of the registry and the network"
        )
    return ImageFailed(
        f"the push to {target.name} failed: {said[:300]}", hint="try again: layers there are kept"
    )
