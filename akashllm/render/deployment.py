"""A plan as an SDL, and as a Compose file for people who want Docker only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from akashllm.errors import BadName, UsageError
from akashllm.plan import GpuChoice, Plan
from akashllm.render.environment import render
from akashllm.render.image import HEALTH, UID
from akashllm.render.stamp import stamp
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH
from akashllm.sdl.secrets import is_placeholder, placeholder
from akashllm.sdl.types import SHARED_MEMORY

SERVICE = "llm"
"""The service, its compute profile and its volume names are the same in every SDL we render."""

WORKER = "worker"
"""The other nodes of a model that one machine cannot hold."""

RAY_PORT = 6379
"""Where Ray's head listens for its workers (`ray start --head --port`)."""

PLACEMENT = "akash"
AUDITOR = "akash1365yvmc4s7awdyj3n2sav7xfx76adc6dnmlx63"
"""Akash's own auditor; the Console adds it to every SDL (console: deployment/config/provider.config.ts)."""

DATA = "/data"
"""Where the persistent volume with the weights appears."""

UNPRICED_CAP = 1000.0
"""uact a block (0.60 dollars an hour) where the plan names no price, as on this machine."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")


def render_sdl(plan: Plan, *, overrides: Path | None = None) -> str:
    """The SDL of a plan, header line included. The same plan gives the same bytes everywhere."""
    return stamp(render("sdl.yaml.j2", _context(plan), overrides=overrides))


def render_compose(plan: Plan, *, overrides: Path | None = None) -> str:
    """The Compose file of a plan: GPU reservation, volume, health, read-only root."""
    if plan.nodes > 1:
        raise UsageError("Compose runs containers on one machine", hint="leave --nodes out, or render the SDL")
    return stamp(render("compose.yaml.j2", _context(plan), overrides=overrides))


def _context(plan: Plan) -> dict[str, Any]:
    _check(plan)
    gpus = gpu_alternatives(plan.gpus)
    return {
        "name": plan.name,
        "engine": plan.engine,
        "model": plan.model.alias,
        "context_tokens": plan.context,
        "service": SERVICE,
        "placement": PLACEMENT,
        "image": plan.image,
        "pinned": "@sha256:" in plan.image,
        "port": plan.port,
        "env": [f"{key}={value}" for key, value in _environment(plan)],
        "variables": [{"name": key, "value": value} for key, value in sorted(plan.env)],
        "secrets": sorted(plan.secrets),
        "cpu": _cpu(plan.cpu_units),
        "memory": f"{plan.ram_gib}Gi",
        "shm_gib": plan.shm_gib,
        "volumes": _volumes(plan),
        "mounts": _mounts(plan),
        "gpu_units": plan.gpus[0].count if plan.gpus else 0,
        "gpus": [
            {
                "model": gpu.model,
                "ram": f"{gpu.ram_gib}Gi" if gpu.ram_gib else "",
                "interface": gpu.interface or "",
            }
            for gpu in gpus
        ],
        "amount": _amount(plan),
        "dollars": f"{float(_amount(plan)) * BLOCKS_AN_HOUR / MILLIONTH:.2f}",
        "auditor": AUDITOR if plan.audited else "",
        "region": plan.region or "",
        "replicas": plan.replicas,
        "workers": plan.nodes - 1,
        "worker": WORKER,
        "worker_env": [
            f"{key}={value}" for key, value in _environment(plan, AKASHLLM_HEAD=f"{SERVICE}:{RAY_PORT}")
        ],
        "ray_port": RAY_PORT,
        "user": f"{UID}:{UID}",
        "health": ["CMD", *HEALTH],
    }


def gpu_alternatives(gpus: tuple[GpuChoice, ...]) -> list[GpuChoice]:
    """What one SDL can ask for: choices of the first one's count, one entry a model, sorted as the chain sorts.

    Providers keep only the last entry of a model named twice (provider: inventory metrics), so the entries of
    one model that differ in the interface become one without it, and of two memory sizes the first one stays.
    """
    kept: dict[str, GpuChoice] = {}
    for gpu in gpus:
        if gpu.count != gpus[0].count:
            continue
        known = kept.get(gpu.model)
        if known is None:
            kept[gpu.model] = gpu
        elif known.ram_gib == gpu.ram_gib and known.interface != gpu.interface:
            kept[gpu.model] = GpuChoice(model=gpu.model, ram_gib=gpu.ram_gib, count=gpu.count)
    return sorted(
        kept.values(), key=lambda gpu: f"{gpu.model}/ram/{gpu.ram_gib}Gi/interface/{gpu.interface or ''}"
    )


def _environment(plan: Plan, **more: str) -> list[tuple[str, str]]:
    return sorted([*plan.env, *more.items(), *((name, placeholder(name)) for name in plan.secrets)])


def _volumes(plan: Plan) -> list[dict[str, Any]]:
    """Smallest first, as the chain sorts them; the order below settles ties the way it does."""
    volumes: list[tuple[int, dict[str, Any]]] = [
        (plan.disk_gib, {"name": "", "size": f"{plan.disk_gib}Gi", "class": "", "persistent": False})
    ]
    if plan.shm_gib:
        volumes.append(
            (plan.shm_gib, {"name": "shm", "size": f"{plan.shm_gib}Gi", "class": "ram", "persistent": False})
        )
    if plan.volume_gib:
        volumes.append(
            (
                plan.volume_gib,
                {
                    "name": "data",
                    "size": f"{plan.volume_gib}Gi",
                    "class": plan.volume_class or "beta3",
                    "persistent": True,
                },
            )
        )
    return [volume for _, volume in sorted(volumes, key=lambda entry: entry[0])]


def _mounts(plan: Plan) -> list[dict[str, str]]:
    mounts = []
    if plan.volume_gib:
        mounts.append({"volume": "data", "path": DATA})
    if plan.shm_gib:
        mounts.append({"volume": "shm", "path": SHARED_MEMORY})
    return mounts


def _cpu(units: float) -> int | str:
    thousandths = round(units * 1000)
    return thousandths // 1000 if thousandths % 1000 == 0 else f"{thousandths}m"


def _amount(plan: Plan) -> str:
    cap = UNPRICED_CAP if plan.max_uact_block is None else plan.max_uact_block
    return f"{cap:.6f}".rstrip("0").rstrip(".")


def _check(plan: Plan) -> None:
    """What the templates cannot escape must be right before: names of variables, and the image."""
    for name in [*(key for key, _ in plan.env), *plan.secrets]:
        if not _NAME.fullmatch(name):
            raise BadName("an environment variable's name holds a character that none can")
    if set(plan.secrets) & {key for key, _ in plan.env}:
        raise UsageError("a secret has a value in the plan: secrets are filled at deploy time")
    if not _IMAGE.fullmatch(plan.image):
        raise BadName("the image reference is malformed", hint="write it as name:tag or name@sha256:...")
    tag = plan.image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in plan.image and tag in {"", "latest"}:
        raise UsageError(
            f"the image {plan.image} has no fixed version: providers keep the copy they have",
            hint="name a tag other than latest, or better a digest",
        )
    for key, value in plan.env:
        if "\x00" in value:
            raise UsageError(f"the value of {key} holds a NUL, which no environment variable can")
        if is_placeholder(value):
            raise UsageError(f"the value of {key} looks like a placeholder", hint="name it among the secrets")
