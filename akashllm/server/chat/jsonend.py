"""Where a JSON value ends, found as its text comes in."""

from __future__ import annotations

import re
from typing import Final

DEPTH: Final = 200
"""Brackets inside each other; what has more is no JSON here."""
_OUTSIDE: Final = re.compile(r"""["{}\[\]]|[^\s\w"{}\[\],:.+\-]""")
_INSIDE: Final = re.compile(r'["\\]')
_PAIRS: Final = {"}": "{", "]": "["}


class NotJson(Exception):
    """The text cannot become JSON; `at` is the place in the part that was fed last."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class JsonEnd:
    """Follows brackets and strings of one object or array."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """The index after the value's last character, or None while it goes on. Raises `NotJson`."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._string else _OUTSIDE).search(text, at)
            if found is None:
                return None
            at = found.end()
            char = found[0]
            if self._string:
                self._string = char != '"'
                self._escaped = char == "\\"
            elif char == '"':
                self._string = True
            elif char in "{[":
                self._open.append(char)
                if len(self._open) > DEPTH:
                    raise NotJson(found.start())
            elif char not in _PAIRS or not self._open or self._open.pop() != _PAIRS[char]:
                raise NotJson(found.start())
            elif not self._open:
                return at
        return None
