"""Processes of this machine by pid and start time, so that a pid that was given out again is never mistaken.

Linux only: /proc (proc(5)) and pidfds (pidfd_open(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """One run of one program.

    start   clock ticks from boot to its start (field 22 of /proc/PID/stat)
    boot    the kernel's random id of this boot: a pid and a start time may come again after the next one
    """

    pid: int
    start: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this pid now, or None."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, int(stat[19]), boot_id())

    @classmethod
    def current(cls) -> Self:
        """This process."""
        process = cls.of(os.getpid())
        if process is None:
            raise OSError("/proc does not show this process")
        return process

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat[0] not in {"Z", "X"} and Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False if it is gone. Never reaches another process that got its pid."""
        with contextlib.ExitStack() as stack:
            descriptor = self._open(stack)
            if descriptor is None:
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False if it still runs after `seconds`. It need not be a child."""
        with contextlib.ExitStack() as stack:
            descriptor = self._open(stack)
            if descriptor is None:
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(max(0, int(seconds * 1000))))

    def _open(self, stack: contextlib.ExitStack) -> int | None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        stack.callback(os.close, descriptor)
        # Opened first, compared after: from here on the descriptor means the process that was compared.
        return descriptor if self.alive() else None


def supported() -> bool:
    """Whether this machine has what the supervisor stands on."""
    return (_PROC / "self" / "stat").exists() and hasattr(os, "pidfd_open")


def boot_id() -> str:
    """The kernel's random id of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def descendants(pid: int) -> list[int]:
    """Pids of all living processes below `pid`, deepest last."""
    children: dict[int, list[int]] = {}
    for candidate in _pids():
        stat = _stat(candidate)
        if stat is not None and stat[0] not in {"Z", "X"}:
            children.setdefault(int(stat[1]), []).append(candidate)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def with_variable(name: str, value: str) -> list[Process]:
    """Living processes of this user that were started with `name=value` in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        process = Process.of(pid) if wanted in environment.split(b"\0") else None
        if process is not None and process.alive():
            found.append(process)
    return found


def family(name: str, value: str) -> list[Process]:
    """As `with_variable`, and everything below those: a child may have been given another environment."""
    marked = with_variable(name, value)
    below = (Process.of(pid) for parent in marked for pid in descendants(parent.pid))
    return list(dict.fromkeys([*marked, *(process for process in below if process is not None)]))


def kill(processes: Iterable[Process], *, wait: float = 5.0) -> None:
    """End processes at once, and wait until they are gone."""
    doomed = [process for process in processes if process.signal(signal.SIGKILL)]
    for process in doomed:
        process.wait(wait)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Between fork and exec: have the kernel signal this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, from the state on; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
