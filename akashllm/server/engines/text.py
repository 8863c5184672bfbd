"""From token bytes to text: whole code points only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import Sequence

_utf8 = codecs.getincrementaldecoder("utf-8")


class StopScanner:
    """Finds stop strings in text that arrives in pieces, and holds back what may become one."""

    __slots__ = ("_held", "_prefixes", "_stops", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None
        prefixes: defaultdict[str, set[str]] = defaultdict(set)
        for stop in self._stops:
            for end in range(1, len(stop)):
                prefixes[stop[end - 1]].add(stop[:end])
        # By last character: most pieces end in a character no stop string contains, and cost one look-up.
        self._prefixes = {last: sorted(found, key=len, reverse=True) for last, found in prefixes.items()}

    def feed(self, text: str) -> str:
        """The text that is certainly no part of a stop string. Once `found` is set there is no more."""
        if self.found is not None:
            return ""
        text = self._held + text
        self._held = ""
        # The one that is complete first wins, so that the answer does not depend on how the text was cut.
        end = len(text) + 1
        for stop in self._stops:
            at = text.find(stop)
            if at != -1 and (at + len(stop), -len(stop)) < (end, -len(self.found or "")):
                end, self.found = at + len(stop), stop
        if self.found is not None:
            return text[: end - len(self.found)]
        if text:
            for prefix in self._prefixes.get(text[-1], ()):
                if text.endswith(prefix):
                    self._held = prefix
                    return text[: -len(prefix)]
        return text

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one choice, piece by piece."""

    __slots__ = ("_decoder", "_scanner", "length")

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = _utf8("replace")
        self._scanner = StopScanner(stops) if stops else None
        self.length = 0
        """Characters decoded so far, those that are held back included."""

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text."""
        return self._scanner.found if self._scanner is not None else None

    def feed(self, piece: bytes) -> str:
        """The text that may be shown now."""
        text = self._decoder.decode(piece)
        self.length += len(text)
        if self._scanner is not None:
            return self._scanner.feed(text)
        return text

    def flush(self) -> str:
        """The rest, with a replacement character for an unfinished code point."""
        text = self._decoder.decode(b"", final=True)
        self.length += len(text)
        if self._scanner is None:
            return text
        return self._scanner.feed(text) + self._scanner.flush()
