"""Durations of an answer, for an upstream that tells none."""

from __future__ import annotations

from time import perf_counter_ns

import msgspec

from akashllm.server.domain import Delta, Done, Event, Timings


class Stopwatch:
    """Times an answer from outside, for an upstream that does not say how long it took."""

    def __init__(self) -> None:
        self._began = perf_counter_ns()
        self._first = 0

    def see(self, event: Event) -> None:
        """Note when the first text came."""
        if not self._first and isinstance(event, Delta):
            self._first = perf_counter_ns()

    def timed(self, event: Event) -> Event:
        """The last event with durations, measured ones where it has none."""
        if not isinstance(event, Done) or event.timings.prompt or event.timings.decode:
            return event
        now = perf_counter_ns()
        first = self._first or now
        return msgspec.structs.replace(event, timings=Timings(prompt=first - self._began, decode=now - first))
