"""A manifest's service as a Docker container: what a provider's cluster makes of it, as far as one engine can.

Facts of providers: provider, cluster/kube/builder/workload.go (command and args, security context, volumes, a
volume of class `ram` as memory).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from docker.errors import ImageNotFound
from docker.types import DeviceRequest, LogConfig, Mount

from akashllm.errors import MarketError
from akashllm.images import DockerEngine, ImageReference
from akashllm.images.reference import HUB
from akashllm.market.lodger import HOST, environment
from akashllm.sdl.types import SHARED_MEMORY

HOME, DSEQ, REFERENCE, SERVICE = (f"akashllm.{word}" for word in ("home", "dseq", "reference", "service"))
"""Labels of our containers and volumes: whose they are, and which deployment's."""

NOBODY = "10001:10001"
"""Runs what an image would run as root: the user that our images have."""

_OURS = "akashllm/"
_TMP = "rw,nosuid,nodev,size=256m"
_LOG = {"max-size": "10m", "max-file": "2"}


def container_name(dseq: str) -> str:
    """What `docker ps` shows."""
    return f"akashllm-{dseq}"


def ensure_image(engine: DockerEngine, image: str) -> None:
    """Have the image, pulled where it has to be. Raises `MarketError` for one of ours that was never built."""
    if engine.has(image):
        return
    reference = ImageReference.parse(image)
    if reference.registry == HUB and reference.name.startswith(_OURS):
        engine_name, cpu = reference.name.removeprefix(_OURS), str(reference.tag).endswith("-cpu")
        raise MarketError(
            f"this Docker engine has no image {image}",
            hint=f"`akashllm build --engine {engine_name}{' --cpu' if cpu else ''}` makes it;"
            " without --container the model runs as a process",
        )
    tag = str(reference.digest) if reference.digest else reference.tag or "latest"
    engine.api.pull(reference.name, tag=tag)


def create_container(
    engine: DockerEngine, service: Mapping[str, Any], *, port: int, labels: Mapping[str, str]
) -> str:
    """A container that was not started yet; its id."""
    dseq = labels[DSEQ]
    env = environment(service)
    resources = service["resources"]
    inner = _inner_port(service)
    mounts, tmpfs, shm = _volumes(service, labels)
    networked: dict[str, Any] = {"port_bindings": {inner: (HOST, port)}}
    if not engine.api.networks(names=["bridge"]):
        # An engine without networks of its own: the container listens on this machine, where it is told to.
        networked = {"network_mode": "host"}
        env |= {"AKASHLLM_HOST": HOST, "AKASHLLM_PORT": str(port)}
    host_config = engine.api.create_host_config(
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        restart_policy={"Name": "unless-stopped"},
        log_config=LogConfig(type="json-file", config=_LOG),
        nano_cpus=_cpus(engine, resources),
        mem_limit=_bytes(resources["memory"]["size"]) + shm,
        shm_size=shm or None,
        tmpfs={"/tmp": _TMP, **tmpfs},  # noqa: S108 - inside the container
        mounts=mounts,
        device_requests=_gpus(resources),
        **networked,
    )
    made = engine.api.create_container(
        service["image"],
        name=container_name(dseq),
        entrypoint=service.get("command") or None,
        command=service.get("args") or None,
        environment=env,
        ports=None if "network_mode" in networked else [inner],
        user=_user(engine, service["image"]),
        labels={**labels, SERVICE: str(service.get("name", "llm"))},
        host_config=host_config,
    )
    return str(made["Id"])


def volumes_of(engine: DockerEngine, home: str, dseq: str) -> Iterator[str]:
    """The names of a deployment's volumes."""
    found = engine.api.volumes(filters={"label": [f"{HOME}={home}", f"{DSEQ}={dseq}"]})
    for volume in found.get("Volumes") or ():
        yield volume["Name"]


def _inner_port(service: Mapping[str, Any]) -> int:
    """The port that the ingress would send to."""
    for expose in service.get("expose") or ():
        if expose.get("global"):
            return int(expose["port"])
    raise MarketError("the SDL exposes no port to the world", hint="`akashllm validate FILE` says how")


def _volumes(service: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[list[Mount], dict[str, str], int]:
    """Persistent volumes as Docker's own, memory as tmpfs, and the size of /dev/shm."""
    known = {volume["name"]: volume for volume in service["resources"]["storage"]}
    mounts, tmpfs, shm = [], {}, 0
    for one in (service.get("params") or {}).get("storage") or ():
        volume = known[one["name"]]
        attributes = {each["key"]: each["value"] for each in volume.get("attributes") or ()}
        size = _bytes(volume["size"])
        if attributes.get("class") != "ram":
            name = f"{container_name(labels[DSEQ])}-{one['name']}"
            mounts.append(
                Mount(one["mount"], name, type="volume", read_only=bool(one["readOnly"]), labels=dict(labels))
            )
        elif one["mount"] == SHARED_MEMORY:
            shm = size
        else:
            tmpfs[one["mount"]] = f"rw,nosuid,nodev,size={size}"
    return mounts, tmpfs, shm


def _cpus(engine: DockerEngine, resources: Mapping[str, Any]) -> int:
    """Billionths of a CPU; an engine refuses more than it has."""
    wanted = int(resources["cpu"]["units"]["val"]) * 1_000_000
    return min(wanted, int(engine.info()["NCPU"]) * 1_000_000_000)


def _bytes(size: Mapping[str, Any]) -> int:
    return int(size["val"])


def _gpus(resources: Mapping[str, Any]) -> list[DeviceRequest] | None:
    count = int(resources["gpu"]["units"]["val"])
    return [DeviceRequest(driver="nvidia", count=count, capabilities=[["gpu"]])] if count else None


def _user(engine: DockerEngine, image: str) -> str | None:
    """None: the image's own, which is somebody."""
    try:
        own = str(engine.api.inspect_image(image)["Config"].get("User") or "")
    except ImageNotFound:
        own = ""
    return NOBODY if own.partition(":")[0] in {"", "0", "root"} else None
