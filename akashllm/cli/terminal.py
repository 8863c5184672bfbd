"""The terminal that a person sits at, joined with one elsewhere; and what is piped in where there is none."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from akashllm.errors import UsageError
from akashllm.market.shell import MAX_STDIN, Session

_PIECE = 4096
_RESIZED, _OVER = b"r", b"q"
_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def interactive() -> bool:
    """Whether a person reads and types here."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def piped_in(*, always: bool) -> bytes | None:
    """All that stdin has to say, if it is a file or a pipe; None where there is nothing to read.

    always   read a terminal too, up to its Ctrl-D, and take a device such as /dev/null for an empty file
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return b"" if always else None
    if not (always or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return None
    data = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise UsageError(
            f"more than {MAX_STDIN >> 20} MiB are piped in", hint="have the container fetch what is larger"
        )
    return data


class Console:
    """Stdin and stdout as one terminal. `akashllm.market.shell.Terminal`."""

    def __init__(self) -> None:
        self._keys, self._screen = sys.stdin.fileno(), sys.stdout.fileno()

    def attach(self, session: Session) -> int:
        """Every key goes there, Ctrl-C too; what comes back goes to the screen as it is."""
        woken, wake = os.pipe()

        def resized(_signal: int, _frame: FrameType | None) -> None:
            os.write(wake, _RESIZED)

        typing = threading.Thread(target=self._type, args=(session, woken), daemon=True)
        with self._kept():
            before = signal.signal(signal.SIGWINCH, resized)
            try:
                tty.setraw(self._keys, termios.TCSANOW)
                self._tell_size(session)
                typing.start()
                for data in session.output():
                    self._show(data)
                return session.status()
            finally:
                signal.signal(signal.SIGWINCH, before)
                os.write(wake, _OVER)
                if typing.ident is not None:
                    session.hang_up()
                    typing.join()
                os.close(wake)
                os.close(woken)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Another program may set it as it likes. Ctrl-C is that program's."""
        with self._kept():
            # Not ignored: that would be inherited.
            before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
            try:
                yield
            finally:
                signal.signal(signal.SIGINT, before)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """The terminal's modes are put back, also where a signal ends this process."""
        modes = termios.tcgetattr(self._keys)

        def end(number: int, _frame: FrameType | None) -> None:
            self._restore(modes)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        before = {number: signal.signal(number, end) for number in _ENDINGS}
        try:
            yield
        finally:
            self._restore(modes)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _restore(self, modes: list[int | list[bytes | int]]) -> None:
        # A terminal that has gone has no modes either.
        with suppress(termios.error):
            termios.tcsetattr(self._keys, termios.TCSANOW, modes)

    def _type(self, session: Session, woken: int) -> None:
        """In a thread of its own: keys and sizes, until the session is over or the terminal gone."""
        with suppress(OSError):
            while True:
                ready, _, _ = select.select([self._keys, woken], [], [])
                if woken in ready:
                    if _OVER in os.read(woken, _PIECE):
                        return
                    self._tell_size(session)
                if self._keys in ready:
                    keys = os.read(self._keys, _PIECE)
                    if not keys:
                        break
                    session.send(keys)
        session.hang_up()

    def _tell_size(self, session: Session) -> None:
        size = os.get_terminal_size(self._screen)
        session.resize(size.columns, size.lines)

    def _show(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._screen, data) :]
