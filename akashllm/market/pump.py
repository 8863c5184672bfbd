"""The supervisor's one loop: the service's output into its log, signals, time; one thread, no polling."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress

from akashllm.market.logfile import BoundedLog

_CHUNK = 64 << 10
_DRAIN = 4 << 20
"""Bytes read after the service has ended: what a pipe can hold, and then some."""


class Pump:
    """Owns the signals of its process: SIGTERM or SIGINT stop it, a second one makes it hurry."""

    clock = staticmethod(time.monotonic)

    def __init__(self, log: BoundedLog) -> None:
        self.log = log
        self.stopping = False
        self.hurry = False
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def told_to_stop(self) -> bool:
        """Whether a signal has asked for the end."""
        return self.stopping

    def _stop(self, _number: int, _frame: object) -> None:
        self.hurry = self.stopping
        self.stopping = True

    def until_exit(self, child: subprocess.Popen[bytes], output: int, *, grace: float) -> None:
        """Write what the child says until it has ended; once stopping, ask it to end and then make it."""
        os.set_blocking(output, False)
        deadline: float | None = None
        open_ = True
        while child.poll() is None:
            if self.stopping and deadline is None:
                child.terminate()
                deadline = self.clock() + grace
            if deadline is not None and (self.hurry or self.clock() >= deadline):
                child.kill()
                deadline = self.clock() + grace
            timeout = None if deadline is None else max(0.0, deadline - self.clock())
            open_ = self._turn(output if open_ else None, timeout)

    def idle(self, seconds: float) -> None:
        """Let time pass, unless told to stop."""
        deadline = self.clock() + seconds
        while not self.stopping and (left := deadline - self.clock()) > 0:
            self._turn(None, left)

    def drain(self, output: int) -> None:
        """Write what is left in the pipe."""
        taken = 0
        with suppress(BlockingIOError):
            while taken < _DRAIN and (data := os.read(output, _CHUNK)):
                self.log.write(data)
                taken += len(data)

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._waker)

    def _turn(self, output: int | None, timeout: float | None) -> bool:
        """Wait for output, a signal or the time-out. False once the output has ended."""
        watched = [self._wake] if output is None else [self._wake, output]
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._wake in readable:
            with suppress(BlockingIOError):
                while os.read(self._wake, 512):
                    pass
        if output is None:
            return False
        if output in readable:
            with suppress(BlockingIOError):
                data = os.read(output, _CHUNK)
                if not data:
                    return False
                self.log.write(data)
        return True
