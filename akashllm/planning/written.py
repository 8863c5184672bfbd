"""A plan from an SDL that somebody has committed: what `deploy` needs to know of a file as it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal, get_args

from akashllm.errors import UsageError
from akashllm.names import deployment_name
from akashllm.plan import EngineName, GpuChoice, ModelSource, Plan
from akashllm.sdl import Sdl, Service, environment, load, placeholders
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, GI, MILLIONTH
from akashllm.sdl.types import SHARED_MEMORY, Compute

_ENGINE = "AKASHLLM_ENGINE"
_HEAD = "AKASHLLM_HEAD"
"""Only workers of a model on several nodes have it; the head is the service."""

_WHISPER = "whisper"
_BESIDE: dict[EngineName, str] = {"llamacpp": _WHISPER}
"""What else the image of an engine runs."""
_REGION = "location-region"


def plan_of(text: str, name: str | None, *, source: str) -> Plan:
    """The plan behind an SDL with one of akashllm's services in it; `source` is the file, for messages.

    Raises `BadSdl`, and `UsageError` where no service says which engine it runs, or the price is in another
    denomination than uact.
    """
    sdl = load(text, source=source)
    service, env, engine = _ours(sdl, source)
    where, deployment = next(iter(sdl.deployment[service.name].items()))
    compute, placement = sdl.compute[deployment.profile], sdl.placement[where]
    price = placement.pricing[deployment.profile]
    model = env.get("AKASHLLM_MODEL", "tiny")
    alias = env.get("AKASHLLM_MODEL_NAME") or model
    volume = next((one for one in compute.storage if one.persistent), None)
    wanted = set(placeholders(text))
    return Plan(
        name=name or deployment_name(Path(source).stem),
        engine=engine,
        model=ModelSource(alias=alias, kind=_kind(model, engine, env), repository=model),
        image=service.image,
        port=next((one.port for one in service.expose if any(to.is_global for to in one.to)), 0),
        env=tuple(sorted((key, value) for key, value in env.items() if key not in wanted)),
        secrets=tuple(sorted(wanted)),
        context=_number(env, "AKASHLLM_CONTEXT"),
        concurrency=_number(env, "AKASHLLM_CONCURRENCY"),
        quant="",
        memory=(),
        cpu_units=compute.cpu / 1000,
        ram_gib=-(-compute.memory // GI),
        disk_gib=-(-sum(one.size for one in compute.storage if not one.persistent) // GI),
        volume_gib=-(-volume.size // GI) if volume else 0,
        volume_class=volume.storage_class if volume else None,
        shm_gib=_shm(service, compute),
        gpus=tuple(_gpus(compute)),
        replicas=deployment.count,
        nodes=_number(env, "AKASHLLM_NODES") or 1,
        region=dict(placement.attributes).get(_REGION),
        audited=bool(placement.any_of or placement.all_of),
        max_price_hour=float(round(_hour(sdl), 4)),
        max_uact_block=float(price.amount),
        price_source=f"at most what {Path(source).name} says",
    )


def _ours(sdl: Sdl, source: str) -> tuple[Service, dict[str, str], EngineName]:
    for service in sdl.services.values():
        env = environment(sdl, service.name)
        said = env.get(_ENGINE)
        for engine in get_args(EngineName):
            worker = _HEAD in env
            if said in {engine, _BESIDE.get(engine, engine)} and service.name in sdl.deployment and not worker:
                return service, env, engine
    raise UsageError(
        f"no service of {source} says by {_ENGINE} which engine it runs",
        hint="`akashllm render` writes SDLs that do; `akashllm validate` judges any other",
    )


def _hour(sdl: Sdl) -> Decimal:
    """US dollars an hour for everything in it."""
    total = Decimal(0)
    for places in sdl.deployment.values():
        for where, deployment in places.items():
            price = sdl.placement[where].pricing[deployment.profile]
            if price.denom != "uact":
                raise UsageError(f"the SDL bids in {price.denom}", hint="new deployments are paid in uact")
            total += Decimal(price.amount) * deployment.count * BLOCKS_AN_HOUR / MILLIONTH
    return total


def _gpus(compute: Compute) -> Iterator[GpuChoice]:
    for gpu in compute.gpus or ():
        yield GpuChoice(
            model=gpu.model,
            ram_gib=gpu.ram // GI,
            count=compute.gpu_units,
            interface=gpu.interface or None,
        )


def _shm(service: Service, compute: Compute) -> int:
    sizes = {one.name: one.size for one in compute.storage}
    return sum(sizes[mount.volume] for mount in service.mounts if mount.path == SHARED_MEMORY) // GI


def _kind(
    model: str, engine: EngineName, env: Mapping[str, str]
) -> Literal["bundled", "file", "gguf", "hf", "ollama", "ct2"]:
    if env.get(_ENGINE) == _WHISPER:
        return "file" if model.startswith("/") else "ct2"
    if model == "tiny":
        return "bundled"
    if engine == "ollama":
        return "ollama"
    if model.startswith("/"):
        return "file"
    return "gguf" if engine == "llamacpp" else "hf"


def _number(env: dict[str, str], name: str) -> int:
    text = env.get(name, "")
    return int(text) if text.isdigit() else 0
