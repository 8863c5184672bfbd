"""Runs a program that knows nothing of us, and leaves nothing of it behind.

`python -m akashllm.server.engines.ollama.guardian PARENT_PID PROGRAM ARGUMENTS...` runs the program in a
process group of its own. SIGTERM, which also comes when the parent ends in whatever way, is handed on to the
group; what is still there after a moment, or after the program itself, is killed: Ollama's runners are
processes of their own and hold the GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

from akashllm.server.engines.lifeline import die_with_parent

_GRACE = 2
"""Seconds between SIGTERM and SIGKILL."""

_NOT_FOUND = 127


def main(parent: int, command: list[str]) -> int:
    """The program's exit status; a program that a signal ended ends this process by the same one."""
    child = 0

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        if not child:
            os._exit(0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
        signal.alarm(_GRACE)

    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, hand_on)
    die_with_parent(parent, signal.SIGTERM)
    guardian = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, guardian)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(guardian, -code)
    return code


def _become(command: list[str], guardian: int) -> None:
    """Turn into the program. Both sides set the group, so that neither has to wait for the other."""
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(guardian)
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(_NOT_FOUND)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
