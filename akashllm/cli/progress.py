"""What a deployment does, as it does it: a bar in a terminal, lines elsewhere. All on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from akashllm.cli.text import safe
from akashllm.market.progress import Progress as Shows

_MARKS = {"pass": "ok", "broken": "BROKEN", "skipped": "skipped"}
_STEP = 10.0
"""Percent between two lines about loading."""


class Shown(Shows, Protocol):
    """The library's progress, as a context manager."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        ...


def shown(*, plain: bool = False) -> Shown:
    """A live view if stderr is a terminal, plain lines if not or where those are wanted."""
    return LiveProgress() if sys.stderr.isatty() and not plain else PlainProgress()


class PlainProgress:
    """A line for each change: what a log file or CI wants."""

    def __init__(self) -> None:
        self._last: tuple[str, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def step(self, name: str, text: str) -> None:
        """A line."""
        self._line(f"[{name}] {text}")

    def loading(self, percent: float | None, text: str) -> None:
        """A line when what is done changes, or another tenth of it is; sizes alone are no news."""
        reached = (text.partition(": ")[0], (percent or 0.0) // _STEP)
        if reached != self._last:
            self._last = reached
            self._line(f"[ready] {text}" + (f" {percent:.0f} %" if percent is not None else ""))

    def check(self, name: str, verdict: str, reason: str) -> None:
        """A line."""
        self._line(f"[smoke] {_MARKS.get(verdict, verdict):<8} {name}: {reason}")

    def note(self, text: str) -> None:
        """A line."""
        self._line(text)

    def _line(self, text: str) -> None:
        print(safe(text), file=sys.stderr, flush=True)


class LiveProgress:
    """Lines above a bar that moves while the model loads and the promises are checked."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[figure]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, name: str, text: str) -> None:
        """A line, and a bar that has not moved yet."""
        self._line(f"{name:<10}", text)
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(safe(name), total=None, figure="")

    def loading(self, percent: float | None, text: str) -> None:
        """Move the bar."""
        if self._task is not None:
            figure = f"{percent:3.0f} %" if percent is not None else ""
            self._bar.update(
                self._task,
                description=safe(text),
                total=None if percent is None else 100.0,
                completed=percent or 0.0,
                figure=figure,
            )

    def check(self, name: str, verdict: str, reason: str) -> None:
        """A line."""
        style = {"pass": "green", "broken": "red", "skipped": "yellow"}.get(verdict, "")
        self._line(f"{_MARKS.get(verdict, safe(verdict)):<10}", f"{name}: {reason}", style)

    def note(self, text: str) -> None:
        """A line."""
        self._line("", text)

    def _line(self, head: str, text: str, style: str = "bold") -> None:
        self._bar.print(Text.assemble((safe(head), style), safe(text)), soft_wrap=True)
