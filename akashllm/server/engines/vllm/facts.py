"""What vLLM needs of the machine, looked at before it starts: it takes minutes to say less about it.

Everything is asked of `nvidia-smi` and the file system; nothing here imports torch. Sources: NVIDIA's CUDA
compatibility table for drivers, vLLM's installation page for compute capabilities, NCCL's environment page for
shared memory.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from akashllm.server.engines.blame import ORDER
from akashllm.server.engines.vllm.options import Options

MIB = 1 << 20
GIB = 1 << 30

SHARE = 0.92
"""vLLM's default `gpu_memory_utilization`."""
COMPUTE = (7, 5)
"""The least compute capability that vLLM's builds have code for; BFLOAT: that bfloat16 needs."""
BFLOAT = (8, 0)
SHARED = 1 * GIB
"""Bytes of /dev/shm that NCCL may need between several GPUs; containers have 64 MiB unless told otherwise."""
SETTLE = 20.0
"""Seconds that memory of an engine that has just died may take to be given back."""

_DRIVERS = {13: 580, 12: 525, 11: 450}
"""The least major version of the driver for each major version of CUDA."""
_QUERY = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
_PATIENCE = 30.0
_SHM = "/dev/shm"  # noqa: S108 - it is what is measured


class Unfit(Exception):
    """The machine cannot run this: what is missing and what to do. `fault`: whose that is (`blame`)."""

    def __init__(self, message: str, *, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in bytes, 0 where the driver does not say (a chip that shares the system's); `compute` is
    its capability, (0, 0) likewise.
    """

    index: int
    name: str
    total: int
    free: int
    driver: str
    compute: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """How to ask. Tests give other answers."""

    smi: Callable[[Sequence[str]], str]
    cuda: Callable[[], str | None]
    shared: Callable[[], int]
    sleep: Callable[[float], None] = time.sleep
    visible: Sequence[str] | None = None
    """What CUDA_VISIBLE_DEVICES lists, None if it is not set; `nvidia-smi` does not heed it."""


def check(options: Options, weights: int, machine: Machine | None = None) -> int:
    """Bytes of GPU memory that vLLM will take here. Raises `Unfit` with the first thing that is wrong.

    `weights` are bytes on disk, 0 if unknown.

    A build of vLLM for processors needs nothing. With several nodes each looks at its own GPUs only.
    """
    machine = machine or Machine(smi=_smi, cuda=_cuda, shared=_shared, visible=_visible())
    cuda = machine.cuda()
    if cuda is None:
        return 0
    gpus = _gpus(machine)
    _check_count(gpus, options)
    used = gpus[: options.gpus]
    _check_driver(used[0], cuda)
    for gpu in used:
        _check_compute(gpu, options)
    planned = _check_memory(machine, options, weights)
    shared = machine.shared()
    if options.gpus > 1 and shared < SHARED:
        raise Unfit(
            f"there are {shared // MIB} MiB in {_SHM}, through which {options.gpus} GPUs talk to each other: "
            "give it 1 GiB or more (shm in the SDL, --shm-size for docker run)",
            fault=ORDER,
        )
    return planned


def read(table: str) -> list[Gpu]:
    """The GPUs of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`. Raises `Unfit`."""
    found: list[Gpu] = []
    for row in csv.reader(table.splitlines(), skipinitialspace=True):
        if not row:
            continue
        if len(row) != len(_QUERY):
            raise Unfit(f"nvidia-smi says something unexpected: {', '.join(row)[:200]}")
        index, name, total, free, driver, compute = (cell.strip() for cell in row)
        numbers = re.fullmatch(r"(\d+)\.(\d+)", compute)
        found.append(
            Gpu(
                index=int(index) if index.isdigit() else len(found),
                name=name,
                total=_mib(total),
                free=_mib(free),
                driver=driver,
                compute=(int(numbers[1]), int(numbers[2])) if numbers else (0, 0),
            )
        )
    return found


def _gpus(machine: Machine) -> list[Gpu]:
    try:
        table = machine.smi((f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"))
    except FileNotFoundError:
        raise Unfit(
            "there is no NVIDIA driver here (nvidia-smi is missing): the container needs a GPU, and the "
            "NVIDIA container toolkit with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unfit("nvidia-smi does not answer: a GPU of this machine hangs") from None
    except subprocess.CalledProcessError as error:
        words = (error.stdout or error.stderr or "").strip().splitlines()
        raise Unfit(f"the NVIDIA driver does not work: {words[0][:300] if words else error}") from None
    found = read(table)
    seen = machine.visible
    if seen is None or not all(item.isdigit() for item in seen):
        # By name, or a part of one: not followed here.
        return found
    return [gpu for gpu in found if str(gpu.index) in seen]


def _check_count(gpus: Sequence[Gpu], options: Options) -> None:
    if not gpus:
        raise Unfit("the NVIDIA driver sees no GPU: ask for one in the SDL (gpu units)")
    if len(gpus) < options.gpus:
        raise Unfit(
            f"there {'is 1 GPU' if len(gpus) == 1 else f'are {len(gpus)} GPUs'} and AKASHLLM_GPUS asks for "
            f"{options.gpus}"
        )


def _check_driver(gpu: Gpu, cuda: str) -> None:
    wanted = _DRIVERS.get(_major(cuda), 0)
    if _major(gpu.driver) < wanted:
        raise Unfit(
            f"the driver is {gpu.driver} and this vLLM is built for CUDA {cuda}, which needs {wanted} or "
            "newer: take another provider, or an image with a vLLM for an older CUDA"
        )


def _check_compute(gpu: Gpu, options: Options) -> None:
    has = f"{gpu.compute[0]}.{gpu.compute[1]}"
    if (0, 0) < gpu.compute < COMPUTE:
        raise Unfit(f"the {gpu.name} has compute capability {has}: vLLM needs 7.5 or more")
    if (0, 0) < gpu.compute < BFLOAT and options.dtype == "bfloat16":
        raise Unfit(
            f"the {gpu.name} (compute capability {has}) does not compute in bfloat16: set "
            "AKASHLLM_DTYPE=float16"
        )


def _check_memory(machine: Machine, options: Options, weights: int) -> int:
    """Bytes vLLM plans with on all GPUs. Raises `Unfit` unless they are free and hold the weights."""
    share = options.memory or SHARE
    waited = 0.0
    while True:
        used = _gpus(machine)[: options.gpus]
        part = weights / (options.gpus * options.nodes)
        for gpu in used:
            if part > gpu.total * share > 0:
                raise Unfit(
                    f"the weights take {part / GIB:.1f} GiB on each GPU and {share:.0%} of the {gpu.name} are "
                    f"{gpu.total * share / GIB:.1f} GiB: use more or larger GPUs, or a quantised model"
                )
        short = next((gpu for gpu in used if gpu.free < gpu.total * share), None)
        if short is None:
            return round(sum(gpu.total for gpu in used) * share)
        if waited >= SETTLE:
            raise Unfit(
                f"GPU {short.index} has {short.free / GIB:.1f} of {short.total / GIB:.1f} GiB free and vLLM "
                f"plans with {share:.0%} of all: something else uses it, or set AKASHLLM_GPU_MEMORY lower"
            )
        machine.sleep(1.0)
        waited += 1.0


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def _mib(cell: str) -> int:
    return int(cell) * MIB if cell.isdigit() else 0


def _smi(arguments: Sequence[str]) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise FileNotFoundError("nvidia-smi")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=_PATIENCE)
    return done.stdout


def _cuda() -> str | None:
    """The CUDA that this interpreter's torch is built for, without importing it; None for a processor's."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    line = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return line[1] if line else None


def _visible() -> list[str] | None:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [item.strip() for item in value.split(",") if item.strip()]


def _shared() -> int:
    try:
        room = os.statvfs(_SHM)
    except OSError:
        return 0
    return room.f_blocks * room.f_frsize
