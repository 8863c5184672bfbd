"""How the library tells what it is doing: the command line decides whether and how to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what happens, in order. Texts may hold words from outside: escape them before a terminal."""

    def step(self, name: str, text: str) -> None:
        """A step begins."""
        ...

    def loading(self, percent: float | None, text: str) -> None:
        """The model is being loaded: percent from 0 to 100, or None where that is not known."""
        ...

    def check(self, name: str, verdict: str, reason: str) -> None:
        """The smoke test has judged one promise: pass, broken or skipped."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """Says nothing."""

    def step(self, name: str, text: str) -> None:
        """Ignored."""

    def loading(self, percent: float | None, text: str) -> None:
        """Ignored."""

    def check(self, name: str, verdict: str, reason: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
