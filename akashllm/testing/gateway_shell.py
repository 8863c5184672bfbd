"""Commands as a provider runs them for its gateway, on a terminal or on pipes: no end of input reaches them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from websockets.exceptions import ConnectionClosed

from akashllm.market.gateway_shell import RESIZE, RESULT, STDERR, STDIN, STDOUT
from akashllm.market.websocket import WebSocket

_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_NO_SUCH = "remote command execute error: command could not be executed because it does not exist"


def on_terminal(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], int, int]:
    """A process whose controlling terminal is a new one; that terminal's two ends, ours and its own."""
    ours, its = pty.openpty()
    words = [sys.executable, "-c", _ON_TERMINAL, *command]
    child = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, start_new_session=True, env=env)
    return child, ours, its


def resize(terminal: int, columns: int, lines: int) -> None:
    """Give a terminal a size; who runs on it is told."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


class RemoteCommand:
    """One command of one connection. `sizes` are those its terminal was given, columns first."""

    def __init__(self, connection: WebSocket, query: Mapping[str, str]) -> None:
        self.service = query["service"]
        self.sizes: list[tuple[int, int]] = []
        self.ended = threading.Event()
        self._connection = connection
        self._tty = query["tty"] == "1"
        self._reads = query["stdin"] == "1"
        self._command: list[str] = []
        while word := query.get(f"cmd{len(self._command)}"):
            self._command.append(word)

    def run(self) -> None:
        """To its end, which is told; the connection's end is its own."""
        if shutil.which(self._command[0]) is None:
            self._tell(RESULT, json.dumps({"exit_code": 0, "message": _NO_SUCH}).encode())
            return
        child, stdin, outputs = self._start()
        self._child = child
        threads = [threading.Thread(target=self._pump, args=output) for output in outputs]
        if self._reads:
            threads.append(threading.Thread(target=self._listen, args=(stdin,)))
        for thread in threads:
            thread.start()
        status = child.wait()
        for thread in threads[: len(outputs)]:
            thread.join()
        self._tell(RESULT, json.dumps({"exit_code": status if status >= 0 else 128 - status}).encode())
        self._connection.close()
        for thread in threads:
            thread.join()
        for descriptor in {stdin, *(number for _, number in outputs)}:
            os.close(descriptor)
        self.ended.set()

    def sever(self) -> None:
        """End the connection as a network does that fails."""
        self._connection.abort()

    def kill(self) -> None:
        """With everything it has started."""
        with suppress(ProcessLookupError, AttributeError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _start(self) -> tuple[subprocess.Popen[bytes], int, list[tuple[int, int]]]:
        """The process, where its input goes, and where its outputs come from."""
        if self._tty:
            child, ours, its = on_terminal(self._command)
            os.close(its)
            return child, ours, [(STDOUT, ours)]
        pipes = [os.pipe() for _ in range(3)]
        child = subprocess.Popen(
            self._command,
            stdin=pipes[0][0] if self._reads else subprocess.DEVNULL,
            stdout=pipes[1][1],
            stderr=pipes[2][1],
            start_new_session=True,
        )
        for number in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(number)
        return child, pipes[0][1], [(STDOUT, pipes[1][0]), (STDERR, pipes[2][0])]

    def _pump(self, kind: int, descriptor: int) -> None:
        # A terminal whose last user has gone reads as an error.
        with suppress(OSError):
            while data := os.read(descriptor, 1 << 15):
                self._tell(kind, data)

    def _listen(self, stdin: int) -> None:
        with suppress(ConnectionClosed):
            for frame in self._connection:
                if not isinstance(frame, bytes) or not frame:
                    continue
                kind, data = frame[0], frame[1:]
                if kind == RESIZE:
                    columns, lines = struct.unpack(">HH", data)
                    resize(stdin, columns, lines)
                    self.sizes.append((columns, lines))
                elif kind == STDIN:
                    self._write(stdin, data)
                else:
                    break
        self.kill()

    def _write(self, stdin: int, data: bytes) -> None:
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(stdin, data) :]

    def _tell(self, kind: int, data: bytes) -> None:
        try:
            self._connection.send(bytes([kind]) + data)
        except ConnectionClosed:
            self.kill()
