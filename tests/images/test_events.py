"""What an engine streams, as events of whole lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.images import Event
from akashllm.images.events import read


def test_a_build_is_steps_lines_and_an_answer() -> None:
    """Steps, cache hits, output and the id come out; the builder's housekeeping does not."""
    stream = [
        {"stream": "Step 1/2 : FROM debian"},
        {"stream": "\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "Step 2/2 : RUN  a   && b\n"},
        {"stream": " ---> Using cache\n"},
        {"stream": " ---> Running in 0123456789ab\n"},
        {"stream": "one "},
        {"stream": "line\nand another\n"},
        {"stream": "Removing intermediate container 0123456789ab\n"},
        {"aux": {"ID": "sha256:1"}},
    ]

    assert list(read(stream)) == [
        Event("step", "FROM debian", 1, 2),
        Event("step", "RUN a && b", 2, 2),
        Event("cached"),
        Event("line", "one line"),
        Event("line", "and another"),
        Event("aux", data={"ID": "sha256:1"}),
    ]


def test_what_a_terminal_would_draw_over_is_left_out() -> None:
    """Colours and cursor movements go, and of a redrawn line only its end stays."""
    stream = [{"stream": "\x1b[91mred\x1b[0m\n"}, {"stream": "10%\r50%\r"}, {"stream": "100%\r\n"}]

    assert [event.text for event in read(stream)] == ["red", "100%"]


def test_pull_and_push_tell_layers_and_bytes() -> None:
    """A layer's state comes with its progress, and with zeros where the engine says none."""
    stream: list[dict[str, Any]] = [
        {"status": "Pulling from me/x", "id": "1"},
        {"status": "Pushing", "progressDetail": {"current": 5, "total": 10}, "id": "abc"},
        {"status": "Pushing", "progressDetail": {"current": 512}, "id": "abc"},
    ]

    assert list(read(stream)) == [
        Event("layer", "Pulling from me/x", layer="1"),
        Event("layer", "Pushing", 5, 10, "abc"),
        Event("layer", "Pushing", 512, 0, "abc"),
    ]


@pytest.mark.parametrize(
    "message",
    [{"error": "no"}, {"error": "x", "errorDetail": {"message": "no"}}, {"errorDetail": {"message": "no"}}],
)
def test_a_failure_is_an_event_in_every_shape(message: dict[str, Any]) -> None:
    """The engine's three ways to say that it failed are one, after the line that came before it."""
    assert list(read([{"stream": "last words"}, message])) == [
        Event("line", "last words"),
        Event("error", "no"),
    ]


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.text(),
            st.dictionaries(
                st.sampled_from(["stream", "status", "aux", "error", "errorDetail", "progressDetail", "id"]),
                st.one_of(st.text(), st.integers(), st.none()),
            ),
        )
    )
)
def test_any_stream_is_read(stream: list[Any]) -> None:
    """Whatever is streamed, reading it ends without an exception and in bounded lines."""
    assert all(len(event.text) <= 2000 for event in read(stream))
