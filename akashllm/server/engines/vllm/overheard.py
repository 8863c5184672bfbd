"""What vLLM's processes write, listened to: only there does its core say why it cannot start."""

from __future__ import annotations

import os
import re
from collections import deque
from threading import Thread

_ERROR = re.compile(r"\b((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): (.+)$")
_FINAL = re.compile(
    r"ValueError|NotImplementedError|KeyError|ImportError|ModuleNotFoundError|FileNotFoundError|ValidationError"
    r"|OutOfMemoryError|AssertionError|SafetensorError"
)
"""Errors that come again when it is tried again."""
_ECHOES = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")


class Overheard:
    """Takes the place of this process's output and error, for its children too, and passes all of it on."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self._out = os.dup(1)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        self._causes: deque[tuple[str, str]] = deque(maxlen=20)
        Thread(target=self._listen, args=(reading,), name="overhear", daemon=True).start()

    def say(self, words: str) -> None:
        """Write a line past the ears, so that it is out before the process ends."""
        os.write(self._out, f"{words}\n".encode("utf-8", "replace"))

    def cause(self) -> str:
        """The error that came first of those that are no mere echo; empty if none did."""
        kind, words = self._found()
        return f"{words} ({kind})" if kind else ""

    def final(self) -> bool:
        """Whether trying again would come to the same."""
        kind, _ = self._found()
        return bool(_FINAL.search(kind))

    def _found(self) -> tuple[str, str]:
        told = [one for one in self._causes if not one[1].startswith(_ECHOES)]
        return told[-1] if told else ("", "")

    def _listen(self, reading: int) -> None:
        rest = b""
        while chunk := os.read(reading, 1 << 16):
            os.write(self._out, chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-4096:]
            for line in lines:
                found = _ERROR.search(line.decode("utf-8", "replace").rstrip())
                if found is not None:
                    self._causes.append((found[1].rpartition(".")[2], found[2].strip()[:400]))
