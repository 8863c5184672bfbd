"""How long vLLM has said nothing although something is expected of it."""

from __future__ import annotations

from collections.abc import Hashable
from time import perf_counter


class Clock:
    """Stands still while nothing is expected. Read from any thread, set from one."""

    def __init__(self) -> None:
        self._expected: dict[Hashable, int] = {}
        self._heard = perf_counter()

    def expect(self, key: Hashable, tokens: int) -> None:
        """Something is expected from now on: the work of so many tokens."""
        if not self._expected:
            self._heard = perf_counter()
        self._expected[key] = tokens

    def drop(self, key: Hashable) -> None:
        """It came, or nobody waits for it any more."""
        self._expected.pop(key, None)

    def hear(self) -> None:
        """Something came from vLLM."""
        self._heard = perf_counter()

    def read(self) -> tuple[float, int]:
        """Seconds of silence, and the tokens of the work that is expected; nothing while none is."""
        tokens = sum(list(self._expected.values()))
        return (perf_counter() - self._heard if tokens else 0.0), tokens
