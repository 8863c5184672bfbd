"""Rules between the sections: what is deployed where, with which volumes, and how much in all."""

from __future__ import annotations

import re
from collections import defaultdict

from akashllm.sdl.quantities import TI, parse_cpu, parse_gpu_units, parse_size
from akashllm.sdl.reading import as_bool
from akashllm.sdl.rules.compute import MAX_CPU, MAX_GPUS
from akashllm.sdl.rules.place import Place, show
from akashllm.sdl.types import SHARED_MEMORY

MAX_COUNT = 50
"""The chain's group limits are its unit limits times this (deployment/v1beta4/validation_config.go)."""

_WINDOW = re.compile(r"([1-9][0-9]{0,9})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_TENSOR_PARALLEL = re.compile(r"vllm|sglang", re.IGNORECASE)


def check_deployment(root: Place) -> None:
    """Names that must meet, and totals."""
    deployment = root.get("deployment")
    services = _mapping(root, "services")
    if deployment is None or not deployment.mapping():
        return
    profiles = root.get("profiles")
    compute = _mapping(profiles, "compute")
    placements = _mapping(profiles, "placement")
    used: dict[str, set[str]] = {"compute": set(), "placement": set()}
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    sharing: dict[tuple[str, str], str] = {}
    tees: dict[str, str] = {}
    for name, entry in deployment.children():
        if name not in services:
            entry.add("deploy-service", f"there is no service {show(name)}", "name a service of this file")
        if not entry.mapping():
            continue
        if not entry.value:
            entry.add(
                "deploy-placement", f"{entry} names no placement", "add PLACEMENT: {profile: ..., count: 1}"
            )
        for where, target in entry.children():
            used["placement"].add(where)
            if where not in placements:
                target.add(
                    "deploy-placement", f"there is no placement {show(where)}", "declare it under profiles"
                )
            if not target.mapping(("profile", "count"), ("profile", "count")):
                continue
            count = _count(target)
            profile = target.child("profile").text()
            if profile is None:
                continue
            used["compute"].add(profile)
            if profile not in compute:
                target.add("deploy-profile", f"there is no compute profile {show(profile)}", "declare it")
            pricing = _mapping(placements.get(where), "pricing")
            if where in placements and profile not in pricing:
                target.add(
                    "deploy-pricing", f"{show(where)} has no price for {show(profile)}", "add it to pricing:"
                )
            resources = _mapping(compute.get(profile), "resources")
            service = services.get(name)
            if resources and service is not None and isinstance(service.value, dict):
                _check_volumes(service, resources.get("storage"), root)
                _check_gpu_use(service, resources)
                _check_tee(service, resources, where, tees)
            _add(totals[where], resources, count)
            _check_sharing(root, target, (where, profile), name, sharing)
    for name, service in services.items():
        if name not in deployment.value:
            service.add(
                "service-not-deployed", f"the service {show(name)} is not deployed", "add it to deployment:"
            )
    for kind, places in (("compute", compute), ("placement", placements)):
        for name, place in places.items():
            if name not in used[kind]:
                place.add("unused", f"nothing uses the {kind} profile {show(name)}", "remove it")
    _check_totals(deployment, totals)


def check_reclamation(root: Place) -> None:
    """The window that a provider must give before it takes a lease back."""
    reclamation = root.get("reclamation")
    if reclamation is None:
        return
    reclamation.add("newer-key", "reclamation needs a current tool and chain", "deploy with a current tool")
    if not reclamation.mapping(("min_window",), ("min_window",)):
        return
    window = reclamation.child("min_window")
    match = _WINDOW.fullmatch(window.value) if isinstance(window.value, str) else None
    if not match or not 3600 <= int(match[1]) * _SECONDS[match[2]] <= 720 * 3600:
        window.add("reclamation", f"{show(window.value)} is no reclamation window", "use 1h to 720h, as 24h")


def _mapping(place: Place | None, key: str) -> dict[str, Place]:
    """The entries of a mapping below a place, or nothing where it is malformed."""
    below = place.get(key) if place is not None else None
    if below is None or not isinstance(below.value, dict):
        return {}
    return dict(below.children())


def _count(target: Place) -> int:
    place = target.child("count")
    count = place.integer()
    if count is not None and not 1 <= count < 2**32:
        place.add("count", f"{show(count)} replicas cannot run", "use 1 or more")
        return 1
    return 1 if count is None else count


def _check_volumes(service: Place, storage: Place | None, root: Place) -> None:
    """Mounts against volumes: each mount has one, each persistent volume is mounted, ephemeral ones are not."""
    if storage is None:
        return
    volumes = [storage] if isinstance(storage.value, dict) else list(_items(storage))
    params = service.get("params")
    mounts = _mapping(params, "storage")
    attributes: dict[str, dict[str, object]] = {}
    for volume in volumes:
        if isinstance(volume.value, dict):
            given = volume.value.get("attributes")
            name = volume.value.get("name")
            attributes[name if isinstance(name, str) else "default"] = given if isinstance(given, dict) else {}
    for name, given in attributes.items():
        if as_bool(given.get("persistent", False)) and name not in mounts:
            service.add(
                "mount-missing",
                f"{service} does not mount the persistent volume {show(name)}",
                f"add params: {{storage: {{{name[:60]}: {{mount: /data}}}}}}",
            )
    for name, mount in mounts.items():
        if name not in attributes:
            mount.add("mount-unknown", f"the profile has no volume {show(name)}", "name one of its volumes")
            continue
        ram = attributes[name].get("class") == "ram"
        if not ram and not as_bool(attributes[name].get("persistent", False)):
            mount.add(
                "mount-ephemeral",
                f"the mounted volume {show(name)} is neither persistent nor RAM: the pod never starts",
                "give it attributes: {class: beta3, persistent: true}, or do not mount it",
            )
        read_only = isinstance(mount.value, dict) and mount.value.get("readOnly") is True
        if ram and read_only and root.value.get("version") == "2.1":
            mount.add(
                "mount-readonly-ram", f"the RAM volume {show(name)} is read-only", "remove readOnly: true"
            )


def _items(place: Place) -> list[Place]:
    return list(place.items()) if isinstance(place.value, list) else []


def _check_gpu_use(service: Place, resources: dict[str, Place]) -> None:
    image = service.value.get("image")
    units = _gpus(resources)
    mounts = _mapping(service.get("params"), "storage").values()
    paths = [mount.value.get("mount") for mount in mounts if isinstance(mount.value, dict)]
    if units > 1 and isinstance(image, str) and _TENSOR_PARALLEL.search(image) and SHARED_MEMORY not in paths:
        service.add(
            "shm",
            f"{service} runs on {units} GPUs with 64 MiB of /dev/shm",
            "mount a volume of class ram, persistent false, at /dev/shm (10Gi)",
        )


def _check_tee(service: Place, resources: dict[str, Place], where: str, tees: dict[str, str]) -> None:
    params = service.get("params")
    tee = params.get("tee") if params else None
    if tee is None or not tee.one_of("cpu", "cpu-gpu"):
        return
    if tee.value == "cpu-gpu" and not _gpus(resources):
        tee.add("tee", "tee cpu-gpu needs a GPU", "ask for a GPU, or write tee: cpu")
    if tees.setdefault(where, tee.value) != tee.value:
        tee.add("tee", f"the placement {show(where)} mixes two kinds of TEE", "use one kind, or two placements")


def _gpus(resources: dict[str, Place]) -> int:
    gpu = resources.get("gpu")
    value = gpu.value.get("units", 0) if gpu is not None and isinstance(gpu.value, dict) else 0
    return parse_gpu_units(value) or 0


def _check_sharing(
    root: Place, target: Place, key: tuple[str, str], name: str, sharing: dict[tuple[str, str], str]
) -> None:
    other = sharing.setdefault(key, name)
    if other != name and root.value.get("version") == "2.0":
        target.add(
            "profile-shared",
            f"{show(other)} and {show(name)} share the profile {show(key[1])}: unclear in version 2.0",
            'give each its own profile, or write version: "2.1"',
        )


def _add(total: dict[str, int], resources: dict[str, Place], count: int) -> None:
    """Add what `count` replicas ask for; malformed sizes have their own finding and count as nothing."""

    def field(name: str, key: str) -> object:
        place = resources.get(name)
        return place.value.get(key) if place is not None and isinstance(place.value, dict) else None

    total["cpu"] += (parse_cpu(field("cpu", "units")) or 0) * count
    total["memory"] += (parse_size(field("memory", "size")) or 0) * count
    total["gpu"] += _gpus(resources) * count
    storage = resources.get("storage")
    volumes = _items(storage) or [storage] if storage is not None else []
    total["storage"] += count * sum(
        parse_size(volume.value.get("size")) or 0 for volume in volumes if isinstance(volume.value, dict)
    )


def _check_totals(deployment: Place, totals: dict[str, dict[str, int]]) -> None:
    limits = {"cpu": MAX_CPU, "memory": 2 * TI, "gpu": MAX_GPUS, "storage": 32 * TI}
    for where, total in totals.items():
        for kind, limit in limits.items():
            if total[kind] > limit * MAX_COUNT:
                deployment.add(
                    "deploy-total",
                    f"the placement {show(where)} asks for more {kind} in all than the chain takes",
                    "lower count:, or deploy twice",
                )
