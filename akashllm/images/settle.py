"""Turn the image that somebody named into the one that will run: by digest, where that can be had."""

from __future__ import annotations

from akashllm.errors import ImageFailed, Unreachable, UsageError
from akashllm.images.pins import pinned
from akashllm.images.reference import ImageReference
from akashllm.images.registry import resolve
from akashllm.state.home import Home


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
