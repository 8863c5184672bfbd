"""No orphans: a child that asks the kernel to die with its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Get a signal when the process `parent`, which started this one, ends; leave now if it has already.

    Where the system cannot do it, the end of the connection does the same a moment later. A Ctrl-C in a
    terminal reaches the whole foreground group; here it is the parent's to act on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hear_of_the_end(number)
    if os.getppid() != parent:
        os._exit(0)


def work_for(parent: int) -> None:
    """As `die_with_parent`, and nothing else ends this process or is left of it.

    A signal to the whole group is for the parent, which lets requests end before it ends this.
    """
    die_with_parent(parent)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hear_of_the_end(number: signal.Signals) -> None:
    """Have the kernel send `number` when the parent ends from now on: prctl(2), where there is one."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
