"""Turn the image that somebody named into the one that will run: by digest, where that can be had."""

from __future__ import annotations

from dataclasses import dataclass

from akashllm.errors import ImageFailed, Unreachable, UsageError
from akashllm.images.pins import pinned
from akashllm.images.reference import ImageReference
from akashllm.images.registry import look, resolve
from akashllm.state.home import Home

PULL_RATE = 50_000_000
"""Bytes a second that a provider downloads and unpacks: 400 Mbit/s. An assumption, not a measurement."""

PULL_PATIENCE = 480
"""Seconds after which a provider closes a lease that is not up, on average (provider, cluster/monitor.go: more
than 40 checks, each 4 s and up to 15 s of jitter apart)."""


@dataclass(frozen=True, slots=True)
class Pullable:
    """An image that a provider can have. `size` is what it downloads, in bytes; None: the registry is away.

    as_root   whether its container starts as root, to whom a provider's volumes belong; None: not known
    """

    image: str
    size: int | None
    warning: str = ""
    as_root: bool | None = None


def pullable(image: str, home: Home, *, named: bool) -> Pullable:
    """The image by digest, once its registry has told that anybody can pull it and that it is small enough.

    named   a person named it; one of our own names, unless it was pushed from here, is nobody's at any registry

    Raises `UsageError` for an image that no provider could run, `DigestMismatch` for a registry that lies. One
    that does not answer leaves the question open: the provider may be luckier.
    """
    found = pinned(image, home)
    reference = ImageReference.parse(found)
    if not named and not reference.digest:
        raise UsageError(
            f"the image {found} is at no registry that is known here: no provider could pull it",
            hint="`akashllm build --push --repository R` makes and pushes it; --image names one that is there",
        )
    try:
        remote = look(found)
    except (Unreachable, ImageFailed) as error:
        return Pullable(found, None, f"whether {found} can be pulled is not known: {error.message}")
    minutes = remote.size / PULL_RATE / 60
    words = f"{found} has {remote.size / 2**30:.1f} GiB to download: {minutes:.0f} minutes at 400 Mbit/s"
    limit = "a provider closes a lease that is not up after about 8"
    if minutes * 60 > PULL_PATIENCE:
        raise UsageError(f"{words}, and {limit}", hint="name a smaller image with --image")
    warning = f"{words}; {limit}" if minutes * 60 > PULL_PATIENCE / 2 else ""
    exact = found if reference.digest else reference.pinned(remote.digest)
    return Pullable(exact, remote.size, warning, remote.as_root)


def settle(image: str, home: Home, *, ask: bool) -> tuple[str, str]:
    """The reference for an SDL, and why it is not pinned: empty where it is.

    ask   if it was not pushed from here, ask its registry; not for our own local names, which another may
          have taken there. A registry that does not tell leaves the tag; one that lies raises `DigestMismatch`
    """
    found = pinned(image, home)
    reference = ImageReference.parse(found)
    if reference.digest:
        return found, ""
    if not ask:
        return found, f"{found} was not pushed from here: `akashllm build --push --repository R` pins it"
    try:
        return reference.pinned(resolve(found)), ""
    except (Unreachable, UsageError, ImageFailed) as error:
        return found, f"{found} stays unpinned: {error.message}"
