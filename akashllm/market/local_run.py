"""The supervisor of one service on this machine: detached from whoever started it, one for each service.

Run as `python -m akashllm.market.local_run DIRECTORY`. That returns once the supervisor holds the directory and
has written its record. The service is its child; whatever the service leaves behind becomes its child too, and
is ended with it. If the supervisor is killed, the kernel ends the service.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from akashllm.errors import MarketError
from akashllm.market.local_files import Lodging, RunRecord, RunSpec, RunState
from akashllm.market.lodger import HOPELESS, is_free
from akashllm.market.logfile import BoundedLog, read_tail
from akashllm.market.processes import Process, adopt_orphans, descendants, end_with_parent, kill
from akashllm.market.pump import Pump

HELD = 17
"""Exit status: another supervisor holds the directory."""

_MAX_BACKOFF = 60.0
_LINES, _LINE = 2, 300


class Supervisor:
    """Keeps one service running until it is told to stop or it is hopeless."""

    def __init__(self, lodging: Lodging, spec: RunSpec, pump: Pump) -> None:
        self.lodging = lodging
        self.spec = spec
        self.pump = pump
        self.me = Process.current()
        self.restarts = 0

    def run(self, started: Callable[[], None]) -> None:
        """Run the service again and again. `started` is called once the record is written."""
        self._write("starting")
        started()
        streak = 0
        while not self.pump.told_to_stop():
            seconds, status, reason = self._once()
            if self.pump.told_to_stop():
                break
            streak = 1 if seconds >= self.spec.steady else streak + 1
            if status in HOPELESS or streak >= self.spec.give_up:
                self._write("failed", reason=self._why(reason))
                return
            self.restarts += 1
            self._write("restarting", reason=self._why(reason))
            self.pump.idle(min(_MAX_BACKOFF, self.spec.backoff * 2 ** (streak - 1)))
        self._write("stopped", reason="it was told to stop")

    def _once(self) -> tuple[float, int | None, str]:
        """One run of the service: how long it took, its exit status, and why it ended."""
        if not is_free(self.spec.port, self.spec.host):
            return 0.0, None, f"port {self.spec.port} is taken by another program"
        since = self.pump.clock()
        try:
            child = subprocess.Popen(
                self.spec.argv,
                env=dict(self.spec.env),
                cwd=self.lodging.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Safe here: this process has one thread.
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),  # noqa: PLW1509
            )
        except OSError as error:
            return 0.0, None, f"the service cannot be started: {error}"
        with child:
            self._write("running", service=Process.of(child.pid))
            output = child.stdout
            assert output is not None
            self.pump.until_exit(child, output.fileno(), grace=self.spec.grace)
            kill(filter(None, map(Process.of, descendants(os.getpid()))))
            self.pump.drain(output.fileno())
        _reap()
        return self.pump.clock() - since, child.returncode, _exit_sentence(child.returncode)

    def _why(self, reason: str) -> str:
        said = " / ".join(line[:_LINE] for line in read_tail(self.lodging.log, _LINES))
        return f"{reason}; it said last: {said}" if said else reason

    def _write(self, state: RunState, *, reason: str = "", service: Process | None = None) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self.lodging.write_record(
            RunRecord(
                state=state,
                supervisor=self.me,
                service=service,
                restarts=self.restarts,
                reason=reason,
                since=since,
            )
        )


def _exit_sentence(status: int) -> str:
    if status >= 0:
        return f"the service ended with status {status}"
    with suppress(ValueError):
        return f"the service was ended by {signal.Signals(-status).name}"
    return f"the service was ended by signal {-status}"


def _reap() -> None:
    """Take the exit status of adopted orphans, so that none stays a zombie."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _supervise(lodging: Lodging, spec: RunSpec, ready: int) -> None:
    os.setsid()
    adopt_orphans()
    log = BoundedLog(lodging.log)
    pump = Pump(log)
    try:

        def started() -> None:
            os.write(ready, b"\0")
            os.close(ready)

        Supervisor(lodging, spec, pump).run(started)
    finally:
        pump.close()
        log.close()


def main(arguments: list[str]) -> int:
    """Detach, then supervise. The exit status is that of the starting: 0, 1, or HELD."""
    lodging = Lodging(Path(arguments[0]))
    # Held by this process, and then by the supervisor that is forked from it: never by the service.
    lock = os.open(lodging.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return HELD
    spec = lodging.spec()
    if spec is None:
        raise MarketError(f"{lodging.directory} says nothing about what to run")
    readable, writable = os.pipe()
    if os.fork():
        os.close(writable)
        return 0 if os.read(readable, 1) else 1
    os.close(readable)
    try:
        _supervise(lodging, spec, writable)
    except BaseException:  # noqa: BLE001 - the process ends here: its log is the only place left
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
