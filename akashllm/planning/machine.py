"""What the container needs besides GPUs: threads, memory, disk, volume, shared memory, environment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from akashllm.catalog import Model
from akashllm.plan import DeployRequest, EngineName, ModelSource
from akashllm.sizing import Need
from akashllm.sizing.memory import GIB

PORT = 8000

IMAGE_GIB = {"vllm": 20, "llamacpp": 6, "ollama": 8}
"""What a container of each engine may write outside its volume: caches, logs, compiled kernels."""

SOUND_GIB = 1.5
"""The longest recording a service takes by default, an hour: 110 MiB of samples, 220 MiB of them in 32 bits,
and the short-time Fourier transform of all of it (201 complex numbers for each of 360,000 frames, some 550 MiB,
beside its squares)."""

WORKER_GIB = 4
"""vLLM has a process for each GPU: PyTorch, CUDA's side of the host, pinned buffers."""

MANAGED_GIB = 30
"""Room for the models that the holder of the admin key pulls or makes: some six of 8B in four bits."""

SHM_GIB = 10
"""NCCL and PyTorch pass tensors between the GPUs' processes through /dev/shm, 64 MiB without a volume."""

VOLUME_CLASS = "beta3"
"""NVMe: the class most providers of GPUs offer, and loading weights is what it is for."""

PLANNED = frozenset(
    f"AKASHLLM_{name}"
    for name in (
        *("ENGINE", "MODEL", "MODEL_NAME", "HOST", "PORT", "TASK", "CONTEXT", "CONCURRENCY", "GPUS", "NODES"),
        *("TOOL_PARSER", "REASONING_PARSER"),
    )
)
"""Every variable that a plan sets: any other is a person's own."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Sizes of one container."""

    cpu_units: float
    ram_gib: int
    disk_gib: int
    volume_gib: int
    volume_class: str | None
    shm_gib: int


def machine_for(
    need: Need, request: DeployRequest, source: ModelSource, *, gpus: int, speech: bool = False
) -> Machine:
    """The sizes for a need, rounded up to what people would write."""
    engine = request.engine
    weights = need.weights / GIB
    if gpus:
        cpu = 4.0 * min(gpus, 4) if engine == "vllm" else 2.0 + 2.0 * gpus
        # Weights pass through the page cache; half of them in memory keeps loading fast.
        ram = (8 + WORKER_GIB * gpus if engine == "vllm" else 4) + weights / 2 / request.nodes
    else:
        cpu = 2.0 if weights < 1 else 8.0 if weights < 8 else 16.0
        ram = 1 + need.total_gib * 1.1
    if speech:
        ram += SOUND_GIB
    stored = source.kind not in {"bundled", "file"}
    # A download is written once, in its place; the rest is for the file system and what lies beside it.
    store = (math.ceil(weights * 1.25) + 2 if stored else 0) + (MANAGED_GIB if request.manage else 0)
    volume = max(10, _up(store, 5)) if store and request.persistent and not request.local else 0
    disk = IMAGE_GIB[engine] if gpus or engine == "vllm" else 2
    return Machine(
        cpu_units=cpu,
        ram_gib=max(2, _up(math.ceil(ram), 2)),
        disk_gib=disk + (0 if volume else store),
        volume_gib=volume,
        volume_class=VOLUME_CLASS if volume else None,
        shm_gib=SHM_GIB if engine == "vllm" and (gpus > 1 or request.nodes > 1) else 0,
    )


def image_for(request: DeployRequest, version: str, *, gpu: bool) -> str:
    """The image's name without a registry's host: the builder or the person adds one."""
    return request.image or f"akashllm/{request.engine}:{version}{'' if gpu else '-cpu'}"


def environment(
    model: Model,
    source: ModelSource,
    request: DeployRequest,
    *,
    context: int,
    concurrency: int,
    quant: str,
    gpus: int,
) -> tuple[tuple[str, str], ...]:
    """The container's variables, sorted; see akashllm/server/settings.py for what each does."""
    values = {
        "AKASHLLM_ENGINE": "whisper" if source.kind == "ct2" else request.engine,
        "AKASHLLM_MODEL": weights_url(source, quant),
        "AKASHLLM_MODEL_NAME": served_name(model.alias),
        "AKASHLLM_HOST": "0.0.0.0",  # noqa: S104 - inside the container; the key guards it
        "AKASHLLM_PORT": str(PORT),
    }
    if source.kind != "ct2":
        values["AKASHLLM_CONCURRENCY"] = str(concurrency)
    if model.task == "transcription":
        if request.engine == "vllm":
            values["AKASHLLM_TASK"] = "transcribe"
    else:
        values["AKASHLLM_CONTEXT"] = str(context)
    if gpus > 1:
        values["AKASHLLM_GPUS"] = str(gpus)
    if request.nodes > 1:
        values["AKASHLLM_NODES"] = str(request.nodes)
    if request.engine == "vllm":
        parsers = {
            "AKASHLLM_TOOL_PARSER": model.tool_parser,
            "AKASHLLM_REASONING_PARSER": model.reasoning_parser,
        }
        values |= {name: parser for name, parser in parsers.items() if parser}
    return tuple(sorted(values.items()))


def served_name(alias: str) -> str:
    """The name clients ask for: the catalogue's alias, a repository, or the stem of a file."""
    if alias.endswith(".gguf"):
        return alias.rsplit("/", 1)[-1].removesuffix(".gguf")
    return alias.removeprefix("hf.co/").removeprefix("huggingface.co/")


def weights_url(source: ModelSource, quant: str) -> str:
    """What the container loads, in one string: `tiny`, a path, an Ollama name, or
    `hf.co/org/repo[@revision][/file or :quant]`.
    """
    if source.kind == "bundled":
        return source.alias
    if source.kind == "file":
        return source.file
    if source.kind == "ollama":
        return source.repository
    revision = f"@{source.revision}" if source.revision else ""
    if source.kind == "gguf":
        what = f"/{source.file}" if source.file else f":{quant}"
        return f"hf.co/{source.repository}{revision}{what}"
    return f"hf.co/{source.repository}{revision}"


def secrets(source: ModelSource, *, manage: bool) -> tuple[str, ...]:
    """Names of the variables that are filled at deploy time, sorted."""
    admin = ("AKASHLLM_ADMIN_KEY",) if manage else ()
    return (*admin, "AKASHLLM_API_KEY", *(("HF_TOKEN",) if source.gated else ()))


def cpu_engine(engine: EngineName) -> bool:
    """There is an image of this engine that runs without a GPU."""
    return engine != "vllm"


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
