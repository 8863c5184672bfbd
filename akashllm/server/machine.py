"""What this machine has for models: the memory of its GPUs, or its own."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

_SHARE = 0.9
"""Of the memory, what models may take: the service and the system live here too."""
_MIB = 1024**2
_PATIENCE = 10.0


def memory_for_models(*, gpu: bool) -> int:
    """Bytes all models together may take; 0 where nobody knows. `gpu`: they go to one if there is one."""
    whole = (gpu_memory() if gpu else 0) or main_memory()
    return int(whole * _SHARE)


def main_memory() -> int:
    """Bytes of main memory: the machine's, or the control group's if that is less."""
    lines = _text("/proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _text(path).strip()
        if limit.isdigit():
            found.append(int(limit))
    return min(found, default=0)


@functools.cache
def gpu_memory() -> int:
    """Bytes of all GPUs that NVIDIA's driver shows; 0 without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run(
            [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(int(line) * _MIB for line in done.stdout.split() if line.isdigit())


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
