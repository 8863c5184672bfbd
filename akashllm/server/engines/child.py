"""What every child process does besides its own work: it takes orders, gives signs of life, and leaves."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread
from time import sleep
from typing import NoReturn

from akashllm.server.engines import frames
from akashllm.server.engines.frames import Beat, Load, Order, Report
from akashllm.server.engines.lifeline import work_for

BEAT = 0.5
"""Seconds between signs of life."""


class Line:
    """A child's end of the connection to the service. When the service is gone, so is the process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = Lock()

    def load(self) -> Load | None:
        """The order that comes first; None if there is nothing to load after all."""
        body = frames.receive(self._connection)
        order = frames.decode_order(body) if body is not None else None
        return order if isinstance(order, Load) else None

    def send(self, report: Report) -> None:
        """Send a report; any thread may."""
        data = frames.encode(report)
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            os._exit(0)

    def listen(self, obey: Callable[[Order], None]) -> None:
        """Hand every order to `obey` from now on, on a thread of its own."""
        Thread(target=self._listen, args=(obey,), name="orders", daemon=True).start()

    def _listen(self, obey: Callable[[Order], None]) -> None:
        while (body := frames.receive(self._connection)) is not None:
            obey(frames.decode_order(body))
        # Nothing here is worth finishing.
        os._exit(0)

    def beat(self, say: Callable[[], Beat]) -> None:
        """Send what `say` says from now on, twice a second, from a thread of its own."""
        Thread(target=self._beat, args=(say,), name="beat", daemon=True).start()

    def _beat(self, say: Callable[[], Beat]) -> None:
        while True:
            sleep(BEAT)
            self.send(say())


def run(child: Callable[[Line], int]) -> NoReturn:
    """Be the child `python -m MODULE FD PARENT_PID`: do what `child` does, and end with the status it gives."""
    descriptor, parent = (int(word) for word in sys.argv[1:3])
    work_for(parent)
    # The kernel, short of memory, takes the engine before the service that can restart it.
    Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    connection = socket.socket(fileno=descriptor)
    try:
        status = child(Line(connection))
    except Exception:  # noqa: BLE001 - whatever it was, its last line is what the service tells of this end
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # No clean-up of the libraries: it can only hang, and everything is given back anyway.
    os._exit(status)
