"""Keeps an engine's child process alive, and says what happened when it was not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol, cast

import msgspec

from akashllm.server.engine import State
from akashllm.server.engines import frames
from akashllm.server.engines.frames import Beat, Load, Order, Progress, Ready, Refused, Report, Shutdown

log = logging.getLogger("akashllm.engine")

LOG_LINES = 50
LOG_WIDTH = 500
"""Characters of a line that are kept."""

BACK_OFF = (0.0, 0.5, 2.0, 5.0)
"""Seconds before the first, second ... restart in a row; after the last the engine has failed."""

QUICK = 60.0
"""Seconds. A child that lived longer starts the count of restarts anew."""

SILENCE = 20.0
"""Seconds without a beat, which comes twice a second from a thread of its own, after which a child is dead."""

START_UP = 60.0
"""Seconds a child may take before its first word, whatever the watchdog says."""

PER_TOKEN = 0.25
"""Seconds a token of a step may take before the step counts as hung: a long prompt on a slow machine is not."""

_POLITE = 3.0
_LAST_WORDS = 1.0
"""Seconds for what a child that ended has written; whoever else holds its output is not waited for."""

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD|PYTHON\w*|VIRTUAL_ENV|XDG_\w+|SSL_\w+"
    r"|(CUDA|NVIDIA|HIP|ROCR|ROCM|GPU|OMP|KMP|MKL|GGML|LLAMA|VLLM|HF|TORCH|TORCHINDUCTOR|TRITON|NCCL)_\w+"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|AKASH", re.IGNORECASE)


class Listener(Protocol):
    """Who hears of a child's life."""

    def report(self, report: Report) -> None:
        """A frame that concerns requests."""

    def ready(self) -> None:
        """A child has loaded the model: orders may be sent."""

    def died(self, words: str) -> None:
        """The child is gone; `words` say how."""

    def gone(self, words: str) -> None:
        """There will be no other child unless `start` is called again."""


class Connection(asyncio.Protocol):
    """The service's end of the pair of sockets: cuts the stream into frames."""

    def __init__(self, report: Callable[[Report], None], broken: Callable[[str], None]) -> None:
        self._report = report
        self._broken = broken
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. uvloop's are not subclasses of asyncio's, so none can be asked what it is."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that is complete."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        size = frames.HEADER.size
        try:
            while end - start >= size:
                (length,) = frames.HEADER.unpack_from(buffer, start)
                if length > frames.MAX_FRAME:
                    self._broken("it sent a frame that is too long")
                    return
                if end - start - size < length:
                    break
                body = bytes(buffer[start + size : start + size + length])
                start += size + length
                self._report(frames.decode_report(body))
        except msgspec.DecodeError as error:
            self._broken(f"it sent a frame that cannot be read ({error})")
        del buffer[:start]


class Supervisor:
    """One child after another, each running `python -m MODULE FD PARENT_PID`.

    `watchdog` is how long, in seconds, a step may last (and a child be silent, if that is less than `SILENCE`)
    before the child is killed. `python` is the child's interpreter, if not ours, and `environment` what it
    gets beside what `child_environment` leaves of ours.
    """

    def __init__(
        self,
        module: str,
        order: Load,
        listener: Listener,
        *,
        watchdog: float = 60.0,
        python: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._module = module
        self._python = python or sys.executable
        self._environment = dict(environment or {})
        self._order = order
        self._listener = listener
        self._watchdog = watchdog
        self._watchers: list[Callable[[State, str, float | None], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._stopping = False
        self._refused = ""
        self.fault = ""
        """Whose the child's refusal is, where that is certain (`blame.ORDER`)."""
        self._heard = 0.0
        self._spoke = False
        self._became_ready: float | None = None
        self._cause = ""
        self.state: State = "unloaded"
        self.reason = ""
        self.percent: float | None = None
        self.restarts = 0
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        """The last lines the child wrote."""

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid if self._process is not None else None

    def watch(self, watcher: Callable[[State, str, float | None], None]) -> None:
        """Have `watcher` called on every change."""
        self._watchers.append(watcher)

    async def start(self) -> None:
        """See to it that there is a child, or soon will be. One that is leaving leaves first."""
        async with self._turn:
            if self._stopping:
                await self._end()
            if self._task is None or self._task.done():
                self._stopping = False
                self._refused = self.fault = ""
                self._set("starting", "starting the engine")
                self._task = asyncio.get_running_loop().create_task(
                    self._run(), name=f"supervise {self._module}"
                )

    async def settled(self) -> State:
        """Wait until the model is loaded, or will not be."""
        while self.state in {"starting", "loading"}:
            self._changed.clear()
            await self._changed.wait()
        return self.state

    async def stop(self) -> None:
        """End the child and leave none behind. Nothing is sent to it any more, and nothing heard of it."""
        async with self._turn:
            self._stopping = True
            self._set("unloaded", "")
            self._listener.gone("the engine was stopped")
            await self._end()

    async def _end(self) -> None:
        task, process = self._task, self._process
        if task is None:
            return
        try:
            if process is None:
                task.cancel()
            else:
                self.send(Shutdown())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(process.wait()), _POLITE)
        finally:
            self._kill()
        await asyncio.wait([task])
        self._task = None

    def send(self, order: Order) -> None:
        """Send an order to the child, if there is one."""
        connection = self._connection
        if connection is not None and connection.transport is not None:
            connection.transport.write(frames.encode(order))

    # --- a child's life ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        quick = 0
        while True:
            words = await self._live()
            if self._stopping:
                return
            if self._refused:
                self._listener.gone(self._refused)
                self._set("failed", self._refused)
                return
            log.warning("engine child ended: %s", words)
            lived = monotonic() - self._became_ready if self._became_ready is not None else 0.0
            quick = 1 if lived > QUICK else quick + 1
            if quick > len(BACK_OFF):
                reason = f"the engine stopped {quick} times in a row; the last time {words}"
                self._listener.gone(reason)
                self._set("failed", reason)
                return
            self._listener.died(words)
            self.restarts += 1
            self._set("starting", f"restarting the engine: {words}")
            await asyncio.sleep(BACK_OFF[quick - 1])

    async def _live(self) -> str:
        """Start a child and stay until it ends; how it ended."""
        ours, theirs = socket.socketpair()
        # A pipe of our own: with one of asyncio's, who holds the output of a child that ended hides its end.
        reading, writing = os.pipe()
        self._cause = ""
        self._became_ready = None
        self._spoke = False
        self._heard = monotonic()
        with contextlib.ExitStack() as until_started:
            until_started.callback(os.close, reading)
            until_started.callback(ours.close)
            try:
                with theirs:
                    process = await self._spawn(theirs, writing)
            except OSError as error:
                words = f"its process could not be started ({error.strerror})"
                if isinstance(error, FileNotFoundError | PermissionError):
                    self._refused = words
                return words
            finally:
                os.close(writing)
            until_started.pop_all()
        return await self._attend(process, ours, reading)

    async def _attend(self, process: asyncio.subprocess.Process, ours: socket.socket, reading: int) -> str:
        """Stay with a child until it ends; how it ended."""
        self._process = process
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        _, connection = await loop.create_unix_connection(
            lambda: Connection(self._heard_from, self._broken), sock=ours
        )
        self._connection = connection
        output = asyncio.StreamReader()
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", 0)
        )
        watchdog = loop.create_task(self._guard(), name="engine watchdog")
        pumping = loop.create_task(pump(output, self.lines), name="engine output")
        try:
            self.send(self._order)
            code = await process.wait()
            await asyncio.wait([pumping], timeout=_LAST_WORDS)
        finally:
            watchdog.cancel()
            pumping.cancel()
            pipe.close()
            self._connection = None
            if connection.transport is not None:
                connection.transport.close()
            if process.returncode is None:
                self._kill()
                await process.wait()
            self._process = None
        return describe_end(code, self._cause, self.lines)

    async def _spawn(self, theirs: socket.socket, writing: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            self._module,
            str(theirs.fileno()),
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            env=child_environment(os.environ) | self._environment,
        )

    async def _guard(self) -> None:
        """Kill a child that says nothing. A loop of ours that stood still itself is no proof against it."""
        interval = min(1.0, self._watchdog / 4)
        while True:
            before = monotonic()
            await asyncio.sleep(interval)
            if monotonic() - before > 4 * interval:
                self._heard = monotonic()
            limit = min(self._watchdog, SILENCE) if self._spoke else max(self._watchdog, START_UP)
            if monotonic() - self._heard > limit:
                self._broken(f"it did not answer for {limit:g} seconds")
                return

    def _broken(self, cause: str) -> None:
        self._cause = cause
        self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)

    def _heard_from(self, report: Report) -> None:
        if self._stopping:
            return
        self._heard = monotonic()
        self._spoke = True
        match report:
            case Progress():
                self._set("loading", "loading the model", report.percent)
            case Ready():
                self._became_ready = monotonic()
                self._listener.report(report)
                self._set("ready", "", 100.0)
                self._listener.ready()
            case Refused():
                self._refused, self.fault = report.reason, report.fault
            case Beat():
                if report.age > self._watchdog + PER_TOKEN * report.tokens:
                    self._broken(f"a step of {report.tokens} tokens did not end in {report.age:.0f} seconds")
                self._listener.report(report)
            case _:
                self._listener.report(report)

    def _set(self, state: State, reason: str, percent: float | None = None) -> None:
        if (state, reason, percent) == (self.state, self.reason, self.percent):
            return
        self.state, self.reason, self.percent = state, reason, percent
        self._changed.set()
        for watcher in self._watchers:
            watcher(state, reason, percent)


async def pump(stream: asyncio.StreamReader, kept: deque[str]) -> None:
    """Keep the last lines of a stream until it ends; neither long lines nor many of them take memory."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:LOG_WIDTH]
        for line in lines:
            text = line[:LOG_WIDTH].decode("utf-8", "replace").rstrip()
            if text:
                kept.append(text)
                log.debug("engine: %s", text)
    if rest:
        kept.append(rest.decode("utf-8", "replace"))


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of our environment: no key of ours, nothing of Akash's."""
    kept = {
        name: value
        for name, value in environment.items()
        if _ALLOWED.fullmatch(name) and not _SECRET.search(name)
    }
    # Otherwise an abort starts a debugger for a backtrace and takes seconds to end.
    return kept | {"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


def describe_end(code: int, cause: str, lines: deque[str]) -> str:
    """An exit status in words, with what the child last said if it went by itself."""
    if cause:
        return f"{cause} and was killed"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        words = {
            "SIGKILL": "it was killed (SIGKILL; short of memory, or by somebody)",
            "SIGSEGV": "it crashed (SIGSEGV)",
            "SIGABRT": "it gave up (SIGABRT)",
            "SIGILL": "it was built for another processor (SIGILL)",
            "SIGBUS": "the model file changed or its disk failed (SIGBUS)",
        }.get(name, f"it was ended by {name}")
    elif code == 0:
        words = "it ended by itself"
    else:
        words = f"it ended with status {code}"
    if lines and code != -signal.SIGKILL:
        words += f": {lines[-1]}"
    return words
