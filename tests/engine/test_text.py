"""From token bytes to text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from akashllm.server.engines.text import StopScanner, TextStream

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """`text` in pieces that end at `places`."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """What is left of a text whose first complete stop string ends it."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not ends:
        return text, False
    end, length = min(ends)
    return text[: end + length], True


@given(LETTERS, STOPS, st.lists(st.integers(0, 100), max_size=10))
def test_stops_do_not_depend_on_the_pieces(text: str, stops: list[str], places: list[int]) -> None:
    """However a text is cut into pieces, the same of it is shown, and nothing of the stop string."""
    stream = TextStream(stops)
    shown = ""
    for piece in cut(text.encode(), places):
        shown += stream.feed(piece)
        if stream.stopped is not None:
            break
    shown += stream.flush()
    assert (shown, stream.stopped is not None) == expected(text, stops)


@given(LETTERS, STOPS)
def test_no_more_is_held_back_than_needed(text: str, stops: list[str]) -> None:
    """What is held back is the beginning of a stop string."""
    scanner = StopScanner(stops)
    shown = "".join(scanner.feed(letter) for letter in text)
    if scanner.found is None:
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


@given(st.text(max_size=20), st.lists(st.integers(0, 100), max_size=20))
def test_characters_come_whole(text: str, places: list[int]) -> None:
    """Pieces that cut characters apart give whole characters, none lost."""
    data = text.encode("utf-8", "replace")
    stream = TextStream(())
    parts = [stream.feed(piece) for piece in cut(data, places)]
    assert "".join([*parts, stream.flush()]) == data.decode()


@given(st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=20))
def test_any_bytes_are_text(data: bytes, places: list[int]) -> None:
    """Bytes that are no UTF-8 become replacement characters, the same ones however they are cut."""
    stream = TextStream(())
    parts = [stream.feed(piece) for piece in cut(data, places)]
    assert "".join([*parts, stream.flush()]) == data.decode("utf-8", "replace")
    assert stream.length == len(data.decode("utf-8", "replace"))
