"""Akash's own command while a command runs in a container: with the terminal lent to it, or fed and read here.

Its client goes on after the end of its input, and then reports that end as an error even where all went well
(LeaseShell of akash-network/provider, gateway/rest/client_shell.go): so its input stays open while it runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Protocol

from akashllm.market.shell import Tell

_PIECE = 1 << 15
_MAX_COMPLAINT = 4 << 20


class Feed(Protocol):
    """Runs it without a terminal; its status and what it wrote to stderr."""

    def __call__(
        self, argv: Sequence[str], env: Mapping[str, str], tell: Tell, stdin: bytes | None
    ) -> tuple[int, str]:
        """A negative status is the signal that ended it."""
        ...


class Lend(Protocol):
    """Runs it on the terminal here; its status and what it wrote to stderr."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
        """A negative status is the signal that ended it."""
        ...


def lend(argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """The terminal is the child's; its complaints are kept apart, as a terminal inside has no stderr."""
    with subprocess.Popen(argv, env=dict(env), stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        try:
            return _ended(child, child.stderr.read(_MAX_COMPLAINT))
        finally:
            child.kill()


def feed(argv: Sequence[str], env: Mapping[str, str], tell: Tell, stdin: bytes | None) -> tuple[int, str]:
    """Its stdout is told as it comes."""
    complaint = bytearray()
    with subprocess.Popen(
        argv,
        env=dict(env),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        threads = [Thread(target=_gather, args=(child, complaint))]
        if stdin is not None:
            threads.append(Thread(target=_write, args=(child, stdin)))
        for thread in threads:
            thread.start()
        try:
            assert child.stdout is not None
            while data := os.read(child.stdout.fileno(), _PIECE):
                tell(data, False)
            child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            if child.stdin is not None:
                child.stdin.close()
        return _ended(child, bytes(complaint))


def _ended(child: subprocess.Popen[bytes], complaint: bytes) -> tuple[int, str]:
    return child.wait(), complaint.decode(errors="replace")


def _gather(child: subprocess.Popen[bytes], complaint: bytearray) -> None:
    assert child.stderr is not None
    while data := os.read(child.stderr.fileno(), _PIECE):
        complaint += data[: max(0, _MAX_COMPLAINT - len(complaint))]


def _write(child: subprocess.Popen[bytes], stdin: bytes) -> None:
    assert child.stdin is not None
    with suppress(OSError):
        while stdin:
            stdin = stdin[os.write(child.stdin.fileno(), stdin) :]
