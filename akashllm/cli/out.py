"""What a command says: one document or some lines on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from akashllm.cli.text import columns, safe, width_of
from akashllm.errors import AkashllmError


class Out:
    """One command's two voices. With `json`, stdout gets exactly one document, at the end."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def talk(self, text: str) -> None:
        """A line for the person, on stderr."""
        print(safe(text), file=sys.stderr, flush=True)

    def talks(self, texts: Iterable[str]) -> None:
        """Lines for the person."""
        for text in texts:
            self.talk(text)

    def line(self, text: str) -> None:
        """A line of the answer; nothing with `json`."""
        if not self.json:
            print(safe(text), flush=True)

    def lines(self, texts: Iterable[str]) -> None:
        """Lines of the answer."""
        for text in texts:
            self.line(text)

    def table(self, rows: Iterable[Sequence[object]]) -> None:
        """Lines of the answer in columns, folded where a terminal is too narrow for them."""
        self.lines(columns(rows, width=width_of(sys.stdout)))

    def document(self, data: Mapping[str, Any]) -> None:
        """The answer as data; nothing without `json`."""
        if self.json:
            print_json(data)


class WithDocument(Exception):
    """A failure that comes with data: the document, with the error in it, is what `--json` prints."""

    def __init__(self, error: AkashllmError, document: Mapping[str, Any]) -> None:
        super().__init__(error.message)
        self.error = error
        self.document = document


class Interrupted(Exception):
    """Ctrl-C, with a sentence on what is still running."""

    def __init__(self, hint: str = "") -> None:
        super().__init__("interrupted")
        self.hint = hint


def print_json(data: Mapping[str, Any]) -> None:
    """One document on stdout, in ASCII: nothing in it can reach a terminal as a control character."""
    print(json.dumps(data, indent=2, ensure_ascii=True), flush=True)
