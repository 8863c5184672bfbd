"""The digests of images that were pushed from here, remembered so that render and deploy pin them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from akashllm.digests import Sha256
from akashllm.errors import BadName, StateError
from akashllm.images.push import Pushed
from akashllm.images.reference import ImageReference
from akashllm.state.home import Home
from akashllm.state.private import read_private, write_private

FORMAT = 1
_HINT = "move it away; `akashllm build --push` writes it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A pushed image. `image` is its name here and in plans, `reference` that at its registry."""

    image: str
    reference: str
    digest: str
    platform: str
    pushed_at: str

    @property
    def pinned(self) -> str:
        """What an SDL says."""
        return ImageReference.parse(self.reference).pinned(Sha256.parse(self.digest))


def pins(home: Home) -> dict[str, Pin]:
    """Every remembered push by the image's name on this machine. Raises `StateError` for a damaged record."""
    path = home.root / "images.json"
    if not path.exists():
        return {}
    try:
        document = json.loads(read_private(path))
        if document["format"] > FORMAT:
            raise StateError(f"{path} was written by a newer akashllm", hint="upgrade akashllm")
        found = {name: Pin(image=name, **entry) for name, entry in document["images"].items()}
        for pin in found.values():
            ImageReference.parse(pin.pinned)
    except (ValueError, TypeError, KeyError, AttributeError, BadName) as error:
        raise StateError(f"{path} is damaged", hint=_HINT) from error
    return found


def remember(home: Home, image: str, pushed: Pushed, platform: str) -> Pin:
    """Note a push; the last one of an image counts."""
    pin = Pin(
        image=image,
        reference=str(pushed.reference),
        digest=str(pushed.digest),
        platform=platform,
        pushed_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with home.lock("images"):
        known = pins(home)
        known[image] = pin
        write_private(home.root / "images.json", _text(known))
    return pin


def pinned(image: str, home: Home) -> str:
    """The image a plan names, by digest if it was pushed from here; else as it is."""
    reference = ImageReference.parse(image)
    if reference.digest:
        return image
    known = pins(home)
    for pin in known.values():
        if image in {pin.image, pin.reference}:
            return pin.pinned
    return image


def _text(known: Mapping[str, Pin]) -> str:
    images: dict[str, Any] = {}
    for name, pin in sorted(known.items()):
        images[name] = {key: value for key, value in dataclasses.asdict(pin).items() if key != "image"}
    return json.dumps({"format": FORMAT, "images": images}, indent=2) + "\n"
