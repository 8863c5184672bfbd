"""Ollama's own `serve` on a port of the loopback device that nobody else knows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic

from akashllm.errors import EngineFailed
from akashllm.server.engines.supervisor import LOG_LINES, QUICK, child_environment, describe_end, pump

log = logging.getLogger("akashllm.engine")

GUARDIAN = "akashllm.server.engines.ollama.guardian"

_OWN = re.compile(r"OLLAMA_\w+|HTTPS_PROXY|NO_PROXY|https_proxy|no_proxy")
_SECRET = re.compile(r"API_KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_POLITE = 5.0


class OllamaProcess:
    """One process after another. `ended` is called with words when one goes by itself.

    binary   the program, a path or a name in PATH
    models   the folder of its models; empty: its own default
    context  tokens of every model's context; 0: Ollama decides by the memory there is
    slots    requests it works on at once
    """

    def __init__(
        self, binary: str, *, models: str, context: int, slots: int, ended: Callable[[str], None]
    ) -> None:
        self._binary = binary
        self._models = models
        self._context = context
        self._slots = slots
        self._ended = ended
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.quick = 0
        """How many in a row ended soon after they were started."""
        self.port = 0
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    @property
    def pid(self) -> int | None:
        """Of the process that runs Ollama, while there is one."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start one on a free port. Raises `EngineFailed` if there is no such program, or no room for it."""
        program = shutil.which(self._binary)
        if program is None:
            raise EngineFailed(
                f"there is no program {self._binary}",
                hint="install Ollama, or set AKASHLLM_OLLAMA_BINARY to where it is",
            )
        await self._settle()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._stopping = False
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                GUARDIAN,
                str(os.getpid()),
                program,
                "serve",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self.environment(os.environ),
            )
        except OSError as error:
            raise EngineFailed(f"no process could be started for Ollama: {error.strerror}") from error
        self._task = asyncio.create_task(self._attend(self._process), name="attend to ollama")

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What Ollama gets to see: its own settings and the system's, none of our keys, ours where they decide.

        It keeps the model for ever, as our own keep-alive decides when it goes.
        """
        own = {
            name: value
            for name, value in environ.items()
            if _OWN.fullmatch(name) and not _SECRET.search(name.upper())
        }
        ours = {
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NUM_PARALLEL": str(self._slots),
        }
        if self._models:
            ours["OLLAMA_MODELS"] = self._models
        if self._context:
            ours["OLLAMA_CONTEXT_LENGTH"] = str(self._context)
        return child_environment(environ) | own | ours

    async def stop(self) -> None:
        """End the process and everything it started."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLITE):
                    await process.wait()
            self._signal(signal.SIGKILL)
        await self._settle()
        self._process = None

    async def _settle(self) -> None:
        """Let what attends to an ended process end too; who still holds its output is not waited for."""
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task], timeout=_POLITE)
            task.cancel()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _attend(self, process: asyncio.subprocess.Process) -> None:
        """Keep what it writes, and tell when it ends."""
        began = monotonic()
        if process.stdout is not None:
            await pump(process.stdout, self.lines)
        code = await process.wait()
        if not self._stopping:
            self.quick = 1 if monotonic() - began > QUICK else self.quick + 1
            self._ended(describe_end(code, "", self.lines))
