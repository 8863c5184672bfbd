"""Text from elsewhere, made harmless for a terminal, and rows of it in columns."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

_SEPARATORS = frozenset({"Zl", "Zp"})
_FURTHER = " " * 4


def safe(text: object, *, lines: bool = False) -> str:
    r"""`text` with every control, format, bidirectional and unassigned character spelled as an escape (`\x1b`).

    lines   keep line ends and tabs
    """
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept and kept else _shown(c) for c in str(text))


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "C" or category in _SEPARATORS:
        return character.encode("unicode_escape").decode()
    return character


def columns(rows: Iterable[Sequence[object]], *, gap: int = 2, width: int | None = None) -> list[str]:
    """Rows as left-aligned columns of harmless text, without trailing blanks.

    width   characters of a line; columns that do not fit go on in lines below their row's first, all of them at
            the same places. None: a row is a line, however long
    """
    table = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [line for row in table for line in _folded(row, widths, _groups(widths, gap, width), " " * gap)]


def _groups(widths: Sequence[int], gap: int, width: int | None) -> list[range]:
    """The columns that share a line."""
    groups, start, used = [], 0, 0
    for place, wide in enumerate(widths):
        used += wide + gap
        if width is not None and used - gap > width and place > start:
            groups.append(range(start, place))
            start, used = place, len(_FURTHER) + wide + gap
    return [*groups, range(start, len(widths))]


def _folded(cells: Sequence[str], widths: Sequence[int], groups: Sequence[range], gap: str) -> list[str]:
    """One row's lines; those after the first are indented, and left out where they are empty."""
    first, *more = (gap.join(cells[n].ljust(widths[n]) for n in group).rstrip() for group in groups)
    return [first, *(_FURTHER + line for line in more if line)]


def width_of(stream: TextIO) -> int | None:
    """Characters of a line of the terminal that a stream leads to; None where it leads to none."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None
