"""How much memory a model will take, before it takes it; and how many threads it may have."""

from __future__ import annotations

import os
from pathlib import Path

from akashllm.server.engines.blame import ORDER

SMALL_MODEL = 64 * 1024 * 1024
"""Bytes. Below this a step is so short that a second thread waits for the first more than it helps."""

DEFAULT_CONTEXT = 8192
"""Tokens, where nobody says and the model was trained for more."""

MIN_CONTEXT = 16

_ENDLESS = 1 << 62
_RESERVE = 128 * 1024 * 1024
_SHARE = 0.7
"""Of the memory that is left, what a cache may take: others live here too."""


class NoRoom(MemoryError):
    """A model does not fit. `ordered`: into the control group, which is as large on any machine."""

    def __init__(self, message: str, *, ordered: bool) -> None:
        super().__init__(message)
        self.ordered = ordered


def fault_of(error: MemoryError) -> str:
    """Whose the want of memory is (`blame`)."""
    return ORDER if isinstance(error, NoRoom) and error.ordered else ""


def available_memory() -> int:
    """Bytes this process may still take: the smaller of what the machine and the control group have left."""
    return min(_left_on_machine(), _left_in_group())


def _left_on_machine() -> int:
    lines = _read("/proc/meminfo").splitlines()
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(free, default=_ENDLESS)


def _left_in_group() -> int:
    free = []
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _read(limit).strip(), _read(usage).strip()
        if most.isdigit() and now.isdigit():
            free.append(max(0, int(most) - int(now)))
    return min(free, default=_ENDLESS)


def usable_threads() -> int:
    """Threads this process may run at once: its affinity, or its control group's quota if that is less."""
    count = len(os.sched_getaffinity(0))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        count = min(count, int(quota[0]) // max(1, int(quota[1])))
    else:
        old = (
            _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip(),
            _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip(),
        )
        if old[0].isdigit() and old[1].isdigit():
            count = min(count, int(old[0]) // max(1, int(old[1])))
    return max(1, count)


def choose_threads(asked: int, weights: int) -> int:
    """Threads for a model of `weights` bytes; `asked` wins, up to twice what the machine has."""
    usable = usable_threads()
    if asked > 0:
        return min(asked, 2 * usable)
    return 1 if weights < SMALL_MODEL else usable


def choose_context(asked: int, trained: int) -> int:
    """Tokens one request may use: as asked (0: choose), and no more than the model was trained for."""
    wanted = asked or min(trained, DEFAULT_CONTEXT)
    return max(MIN_CONTEXT, min(wanted, trained or wanted))


def plan_cache(*, weights: int, per_token: int, context: int, slots: int, wanted: int, on_gpu: bool) -> int:
    """Tokens the cache is to hold: room for every slot's context, or less where memory is short.

    `wanted` (0: choose) is bounded by two contexts a slot. `per_token` is bytes a token of cache takes. Raises
    `MemoryError`, with the sum, if no single context fits.
    """
    tokens = min(wanted, 2 * context * slots) if wanted > 0 else context * slots
    tokens = max(tokens, context)
    if on_gpu:
        return tokens
    left = available_memory() - weights - _RESERVE
    if tokens * per_token <= _SHARE * left:
        return tokens
    if context * per_token <= _SHARE * left:
        return max(context, int(_SHARE * left) // per_token // 256 * 256)
    needs = f"{_gib(weights)} for weights, {_gib(context * per_token)} for a context of {context} tokens"
    message = (
        f"the model needs {needs} and {_gib(_RESERVE)} to work in, and {_gib(available_memory())} are free: "
        "lower the context or take a smaller quantisation"
    )
    raise NoRoom(message, ordered=_left_in_group() < _left_on_machine())


def _gib(size: int) -> str:
    return f"{size / 1024**3:.2f} GiB"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
