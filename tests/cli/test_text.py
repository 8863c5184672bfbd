"""Text from elsewhere cannot steer a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from akashllm.cli.progress import LiveProgress, PlainProgress
from akashllm.cli.text import columns, safe

HOSTILE = "\x1b]0;owned\x07\x9b31m \u202egpj.exe\u2066 \u2028 [link=http://evil]x[/link] \r\n\t[/] \ue000"


@given(st.text())
def test_nothing_safe_can_steer(text: str) -> None:
    """Whatever comes in, no control, format or unassigned character comes out, and no line ends."""
    shown = safe(text)

    assert all(unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in {"Zl", "Zp"} for c in shown)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_stays(text: str) -> None:
    """Letters of any script, figures, marks and blanks are shown as they are."""
    assert safe(text) == text


def test_lines_are_kept_where_asked() -> None:
    """A difference over several lines stays one, but for the rest it is escaped."""
    assert safe("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


def test_columns_align_and_escape() -> None:
    """Cells are escaped before they are measured."""
    assert columns([("a", "\x1b"), ("long", "x")]) == ["a     \\x1b", "long  x"]


def test_columns_fold_between_cells_where_a_line_is_too_short() -> None:
    """No line is longer than the terminal, no cell is cut, and what a row has no more of takes no line."""
    rows = [
        ("NAME", "STATE", "URL", "WHY"),
        ("one", "ready", "https://a.test", "it is"),
        ("two", "open", "", ""),
    ]

    assert columns(rows, width=20) == [
        *("NAME  STATE", "    URL", "    WHY"),
        *("one   ready", "    https://a.test", "    it is"),
        "two   open",
    ]
    assert columns(rows, width=26)[1] == "    URL             WHY"
    assert columns(rows, width=80) == columns(rows)


def test_only_the_mark_of_a_line_is_coloured() -> None:
    """A verdict's words and a step's are in the terminal's own colour."""
    stream = io.StringIO()
    with LiveProgress(Console(file=stream, force_terminal=True, width=200, highlight=False)) as progress:
        progress.check("chat", "pass", "Paris")
        progress.step("ready", "waiting")

    assert "\x1b[32mok        \x1b[0mchat: Paris\n" in stream.getvalue()
    assert "\x1b[1mready     \x1b[0mwaiting\n" in stream.getvalue()


def test_plain_progress_escapes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of line is one line without an escape in it."""
    with PlainProgress() as progress:
        progress.step("ready", HOSTILE)
        progress.loading(50.0, HOSTILE)
        progress.check(HOSTILE, "pass", HOSTILE)
        progress.note(HOSTILE)

    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 5
    assert not any(c in "".join(lines) for c in "\x1b\x07\x9b\u202e\u2066\u2028\r\ue000")


def test_plain_progress_speaks_once_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets a line for another tenth, not for each look."""
    with PlainProgress() as progress:
        for percent in range(101):
            progress.loading(float(percent), "loading")

    assert capsys.readouterr().err.count("\n") == 11


def test_plain_progress_of_a_download(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes that change at each look are no news; another tenth is, and so is another file."""
    with PlainProgress() as progress:
        for step in range(100):
            progress.loading(step / 2, f"downloading a.gguf: {step / 10:.1f} of 20.0 GiB")
        progress.loading(50.0, "downloading b.gguf: 10.0 of 20.0 GiB")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[1] == "[ready] downloading a.gguf: 2.0 of 20.0 GiB 10 %"


def test_live_progress_takes_no_markup_and_no_escapes() -> None:
    """In a terminal, hostile text is neither styled, linked nor obeyed: only rich's own sequences appear."""
    stream = io.StringIO()
    with LiveProgress(Console(file=stream, force_terminal=True, width=200, highlight=False)) as progress:
        progress.step("ready", HOSTILE)
        progress.loading(50.0, HOSTILE)
        progress.check("x", "broken", HOSTILE)
        progress.note(HOSTILE)

    text = stream.getvalue()
    assert "\\x1b]0;owned\\x07" in text
    assert "[link=http://evil]x[/link]" in text
    assert not any(c in text for c in "\x07\x9b\u202e\u2066\u2028\ue000")
    assert "\x1b]" not in text
