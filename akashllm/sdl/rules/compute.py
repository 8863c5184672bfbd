"""Rules for compute profiles: CPU, memory, volumes and GPUs."""

from __future__ import annotations

import re
from typing import Any

from akashllm.sdl.quantities import GI, MI, TI, parse_cpu, parse_gpu_units, parse_size
from akashllm.sdl.reading import FALSE_WORDS, TRUE_WORDS
from akashllm.sdl.rules.place import Place, show

MAX_VOLUMES = 4
MAX_GPUS = 24
MIN_CPU, MAX_CPU = 10, 384_000
CLASSES = ("default", "beta1", "beta2", "beta3", "ram")
_GPU_MODEL = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")


def check_compute(profiles: Place) -> None:
    """Every compute profile."""
    compute = profiles.get("compute")
    if compute is None or not compute.mapping():
        return
    for _, profile in compute.children():
        if not profile.mapping(("resources",), ("resources",)):
            continue
        resources = profile.child("resources")
        if not resources.mapping(("cpu", "memory", "storage", "gpu"), ("cpu", "memory", "storage")):
            continue
        _check_cpu(resources.child("cpu"))
        _check_memory(resources.child("memory"))
        _check_storage(resources.child("storage"))
        if (gpu := resources.get("gpu")) is not None:
            _check_gpu(gpu)


def _check_cpu(cpu: Place) -> None:
    if not cpu.mapping(("units", "attributes"), ("units",)):
        return
    units = cpu.child("units")
    thousandths = parse_cpu(units.value)
    if thousandths is None:
        units.add("cpu", f"{show(units.value)} is no number of CPUs", "write 2, 1.5 or 500m")
    elif not MIN_CPU <= thousandths <= MAX_CPU:
        units.add("cpu", f"{show(units.value)} CPUs are outside what the chain takes", "use 10m to 384")
    if (attributes := cpu.get("attributes")) is not None and attributes.mapping():
        for key, value in attributes.children():
            if key != "arch":
                value.add("cpu-attribute", f"{show(key)} is no CPU attribute", "the only one is arch")
            elif not value.one_of("amd64", "arm64"):
                value.add(
                    "cpu-attribute", f"{show(value.value)} is no CPU architecture", "write amd64 or arm64"
                )


def _size(place: Place, rule: str, low: int, high: int, limits: str) -> int | None:
    """Bytes within the chain's limits, or None after a report."""
    if isinstance(place.value, (int, float)) and not isinstance(place.value, bool):
        place.add("size", f"{place} is a bare number, which the official tools choke on", 'write it as "16Gi"')
        return None
    size = parse_size(place.value)
    if size is None or not isinstance(place.value, str):
        place.add(
            "size",
            f"{show(place.value)} is no size",
            "write a number and Mi, Gi or Ti, spelled exactly like that",
        )
        return None
    if not low <= size <= high:
        place.add(rule, f"{show(place.value)} is outside what the chain takes", f"use {limits}")
        return None
    return size


def _check_memory(memory: Place) -> None:
    if not memory.mapping(("size",), ("size",)):
        return
    size = memory.child("size")
    if (
        _size(size, "memory", MI, 2 * TI, "1Mi to 2Ti") is not None
        and parse_size(size.value, decimal=False) is None
    ):
        size.add("size", f"{show(size.value)}: memory is read in binary units only", "write Mi, Gi or Ti")


def _check_storage(storage: Place) -> None:
    volumes = [storage] if isinstance(storage.value, dict) else list(storage.items())
    if isinstance(storage.value, list) and not volumes:
        storage.add("wrong-type", "there is no volume", "add at least - size: 1Gi for the root file system")
    names: set[str] = set()
    sizes: list[int] = []
    ephemeral = 0
    for volume in volumes:
        if not volume.mapping(("name", "size", "attributes"), ("size",)):
            continue
        size = _size(volume.child("size"), "storage", 5 * MI, 32 * TI, "5Mi to 32Ti")
        if size is not None:
            if sizes and size < sizes[-1]:
                volume.add(
                    "storage-order", f"{volume} is smaller than the one before", "list the smallest first"
                )
            sizes.append(size)
        place = volume.get("name")
        name = "default" if place is None else place.text()
        if name is not None:
            if name in names:
                volume.add("storage-name", f"two volumes are called {show(name)}", "give each its own name:")
            names.add(name)
        if (attributes := volume.get("attributes")) is None:
            ephemeral += 1
        else:
            _check_volume_attributes(attributes)
    if len(volumes) > MAX_VOLUMES:
        storage.add(
            "storage-count", f"{len(volumes)} volumes: providers bid on {MAX_VOLUMES} at most", "merge some"
        )
    if ephemeral > 1:
        storage.add("storage-ephemeral", "only one volume without attributes counts, as the root", "keep one")


def _check_volume_attributes(attributes: Place) -> None:
    if not attributes.mapping(("class", "persistent")):
        return
    for key in ("class", "persistent"):
        if key not in attributes.value:
            attributes.add(
                "storage-attributes", f"{attributes} has no {key}", "write both class: and persistent:"
            )
    if "class" in attributes.value and attributes.value["class"] not in CLASSES:
        attributes.child("class").add(
            "storage-class",
            f"{show(attributes.value['class'])} is no storage class",
            f"use {', '.join(CLASSES)}",
        )
        return
    value = attributes.value.get("persistent", False)
    persistent = _flag(value)
    if persistent is None:
        attributes.child("persistent").add(
            "wrong-type", f"{show(value)} is neither true nor false", "write true"
        )
        return
    kind = attributes.value.get("class")
    if kind == "ram" and persistent:
        attributes.add("storage-persistent", "a RAM volume cannot be persistent", "write persistent: false")
    elif kind not in {None, "ram"} and not persistent:
        attributes.add(
            "storage-persistent",
            f"the class {kind} is for persistent volumes",
            "write persistent: true, or leave the attributes out for an ephemeral volume",
        )


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def _check_gpu(gpu: Place) -> None:
    if not gpu.mapping(("units", "attributes"), nullable=("units",)):
        return
    value = gpu.value.get("units", 0)
    units = parse_gpu_units(value)
    if units is None or units > MAX_GPUS:
        place = gpu.child("units")
        place.add(
            "gpu-units", f"{show(value)} is no number of GPUs", f"write a whole number, at most {MAX_GPUS}"
        )
        return
    attributes = gpu.get("attributes")
    if "attributes" in gpu.value and not units:
        gpu.add("gpu-attributes", "there are GPU attributes but no GPU", "set units: 1 or remove gpu:")
        return
    if not units:
        return
    if attributes is None:
        gpu.add(
            "gpu-attributes", "a GPU needs attributes", "add attributes: {vendor: {nvidia: [{model: h100}]}}"
        )
        return
    if not attributes.mapping(("vendor",)):
        return
    vendor = attributes.get("vendor")
    if vendor is None or not isinstance(vendor.value, dict) or "nvidia" not in vendor.value:
        attributes.add("gpu-vendor", "the GPU's vendor is missing", "add vendor: {nvidia: [{model: h100}]}")
    if vendor is None or not vendor.mapping():
        return
    for name, place in vendor.children():
        if name != "nvidia":
            place.add(
                "gpu-vendor", f"the chain does not know the vendor {show(name)}", "the only one is nvidia"
            )
    if "nvidia" in vendor.value:
        _check_models(vendor.child("nvidia"))


def _check_models(nvidia: Place) -> None:
    if nvidia.value is None or nvidia.value == []:
        nvidia.add(
            "gpu-any", "any NVIDIA GPU will do, the smallest too", "list the models that hold your model"
        )
        return
    keys: list[str] = []
    models: dict[str, str] = {}
    for entry in nvidia.items():
        if not entry.mapping(("model", "ram", "interface")):
            continue
        key = _gpu_key(entry)
        if key is None:
            continue
        model = entry.value["model"]
        if key in keys:
            entry.add("gpu-duplicate", f"{show(key)} stands twice", "remove one")
        elif model in models:
            entry.add(
                "gpu-model-repeat",
                f"{model} stands twice: providers read one of the entries only",
                "keep one, without ram or interface if both will do",
            )
        elif keys and key < keys[-1]:
            entry.add("gpu-order", f"{show(key)} is out of order", "sort the list by model")
        keys.append(key)
        models.setdefault(model, key)


def _gpu_key(entry: Place) -> str | None:
    """The attribute key of one kind of GPU, or None after a report."""
    model = entry.value.get("model")
    good = True
    if not isinstance(model, str) or not _GPU_MODEL.fullmatch(model):
        what = "has no model" if model is None else f"{show(model)} is no GPU model"
        entry.add("gpu-model", f"{entry} {what}", "write it in lower case without spaces, as h100 or rtx4090")
        good = False
    ram = entry.get("ram")
    size = parse_size(ram.value, decimal=False) if ram else 0
    if ram and (size is None or not isinstance(ram.value, str) or size < GI):
        ram.add(
            "gpu-ram", f"{show(ram.value)} is no GPU memory", "write it in Gi, as 80Gi; it must match exactly"
        )
        good = False
    interface = entry.get("interface")
    if interface and not interface.one_of("pcie", "sxm"):
        interface.add("gpu-interface", f"{show(interface.value)} is no GPU interface", "write pcie or sxm")
        good = False
    if not good:
        return None
    key = f"{model}"
    if size:
        key += f"/ram/{size // GI}Gi"
    return key + (f"/interface/{interface.value}" if interface else "")
