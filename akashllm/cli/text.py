"""Text from elsewhere, made harmless for a terminal, and rows of it in columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_SEPARATORS = frozenset({"Zl", "Zp"})


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


def columns(rows: Iterable[Sequence[object]], *, gap: int = 2) -> list[str]:
    """Rows as left-aligned columns of harmless text, without trailing blanks."""
    table = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
