"""What differs between two SDLs, and which of it a lease bears.

The chain keeps groups: placement, prices, resources, counts and the kinds of endpoints. A manifest whose groups
are another's is refused by Akash's command line and by providers ("groups are different"; chain-sdk,
deployment_tx.go). Everything else of a service can be exchanged under the same lease, but for volumes:
Kubernetes takes no other claims for a StatefulSet, nor makes one of a Deployment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from akashllm.sdl import Sdl, Service, group_specs, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Each a sentence without its full stop.

    in_place    what the same lease bears, at the cost of a restart
    new_lease   what takes another lease
    diff        unified diff of the two files; secrets are placeholders in both
    """

    in_place: tuple[str, ...]
    new_lease: tuple[str, ...]
    diff: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether both say the same."""
        return not self.in_place and not self.new_lease


def changes(old: str, new: str) -> Changes:
    """Compare two SDLs. Raises `BadSdl` for one that breaks a rule."""
    before, after = load(old, source="the SDL that runs"), load(new, source="the new SDL")
    return Changes(
        in_place=tuple(_in_place(before, after)),
        new_lease=tuple(_new_lease(before, after)),
        diff=tuple(
            line.rstrip("\n")
            for line in difflib.unified_diff(
                old.splitlines(), new.splitlines(), "running", "new", lineterm="", n=2
            )
        ),
    )


def _in_place(before: Sdl, after: Sdl) -> Iterator[str]:
    for name in sorted(before.services.keys() & after.services.keys()):
        old, new = before.services[name], after.services[name]
        if old.image != new.image:
            yield f"{name}: the image becomes {new.image}"
        for what in ("command", "args", "credentials", "permissions"):
            if getattr(old, what) != getattr(new, what):
                yield f"{name}: its {what} change"
        yield from _variables(name, old, new)
        if old.expose != new.expose:
            yield f"{name}: its ports, hosts or HTTP options change"


def _variables(name: str, old: Service, new: Service) -> Iterator[str]:
    """Names only: a value may be a secret that somebody wrote out."""
    before, after = (dict(entry.partition("=")[::2] for entry in service.env) for service in (old, new))
    for variable in sorted(before.keys() | after.keys()):
        if variable not in after:
            yield f"{name}: {variable} is taken away"
        elif variable not in before:
            yield f"{name}: {variable} is new"
        elif before[variable] != after[variable]:
            yield f"{name}: {variable} changes"


def _new_lease(before: Sdl, after: Sdl) -> Iterator[str]:
    for name in sorted(before.services.keys() ^ after.services.keys()):
        yield f"the service {name} is {'new' if name in after.services else 'gone'}"
    for name in sorted(before.services.keys() & after.services.keys()):
        old, new = before.services[name], after.services[name]
        if old.mounts != new.mounts:
            yield f"{name}: its mounted volumes change"
        if old.tee != new.tee:
            yield f"{name}: its confidential computing changes"
    groups, others = ({group["name"]: group for group in group_specs(sdl)} for sdl in (before, after))
    for name in sorted(groups.keys() | others.keys()):
        if name not in groups or name not in others:
            yield f"the placement {name} is {'gone' if name in groups else 'new'}"
        elif groups[name] != others[name]:
            yield from _group(name, groups[name], others[name])


def _group(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["requirements"] != new["requirements"]:
        yield f"the placement {name}: what is asked of the provider changes"
    if len(old["resources"]) != len(new["resources"]):
        yield f"the placement {name}: it has {len(new['resources'])} kinds of container"
        return
    for before, after in zip(old["resources"], new["resources"], strict=True):
        if before["count"] != after["count"]:
            yield f"replicas: {before['count']} become {after['count']}"
        if before["price"] != after["price"]:
            yield f"the highest price becomes {_price(after)}"
        for what in ("cpu", "memory", "storage", "gpu", "endpoints"):
            if before["resource"][what] != after["resource"][what]:
                yield f"the resources change: {what}"


def _price(unit: dict[str, Any]) -> str:
    amount = str(unit["price"]["amount"]).rstrip("0").rstrip(".")
    return f"{amount} {unit['price']['denom']} a block"
