"""A person at a terminal, for commands that want one."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
from collections.abc import Callable

from akashllm.testing.gateway_shell import on_terminal, resize

COMMAND = (sys.executable, "-m", "akashllm")
PATIENCE = 60.0


class Screen:
    """A person at a terminal on which a command runs."""

    def __init__(self, *arguments: str) -> None:
        self.child, self._ours, self._its = on_terminal([*COMMAND, *arguments])
        self.before = termios.tcgetattr(self._its)
        self._shown = b""

    def size(self, columns: int, lines: int) -> None:
        """Drag the window's corner."""
        resize(self._ours, columns, lines)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def sees(self, pattern: str) -> str:
        """Wait until that is on the screen, after what was seen before; returns it."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern.encode(), self._shown)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} never showed: {self._shown!r}"
            self._shown += os.read(self._ours, 1 << 16)
        self._shown = self._shown[found.end() :]
        return found[0].decode()

    def raw(self) -> bool:
        """Whether keys reach the command one by one, Ctrl-C as a key among them."""
        return not termios.tcgetattr(self._its)[3] & (termios.ICANON | termios.ISIG | termios.ECHO)

    def ends(self) -> int:
        """The exit code; the terminal has to be as it was."""
        status = self.child.wait(PATIENCE)
        assert termios.tcgetattr(self._its) == self.before
        return status

    def rest(self) -> str:
        """What is on the screen after what was seen."""
        while select.select([self._ours], [], [], 0)[0]:
            self._shown += os.read(self._ours, 1 << 16)
        return self._shown.decode()

    def close(self) -> None:
        """Turn it off."""
        self.child.kill()
        self.child.wait()
        os.close(self._ours)
        os.close(self._its)


Sit = Callable[..., Screen]
