"""Nothing of vLLM outlives its child: the engine's core and its workers are processes of their own."""

from __future__ import annotations

import os
import signal
import sys

from akashllm.server.engines.lifeline import hear_of_the_end

_POLL = 1.0


def lead() -> None:
    """Make this process the head of a group that ends with it, however it ends.

    A second process, the guard, waits for that and then kills the group: a process that was killed can do
    nothing for its children any more. To be called before there are threads.
    """
    os.setpgid(0, 0)
    head = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if os.fork() == 0:
        _guard(head)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _guard(head: int) -> None:
    """Wait for the head to end. The kernel tells; where it cannot, looking once a second does."""
    sys.stdout.flush()
    os.closerange(3, 4096)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hear_of_the_end(signal.SIGTERM)
    while os.getppid() == head:
        signal.sigtimedwait({signal.SIGTERM}, _POLL)
    os.killpg(head, signal.SIGKILL)
    os._exit(0)
