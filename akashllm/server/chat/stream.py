"""The parser for formats that put markers around thinking and calls: nearly all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from akashllm.server.chat.jsonend import JsonEnd, NotJson
from akashllm.server.chat.pieces import CallReader, Piece, join, read_json
from akashllm.server.domain import ToolCall

SPACE: Final = 64
"""White space before a marker that is taken for part of it."""
PART: Final = 1024
"""Characters taken at once: a state may cost as much as the buffer is long."""
_HEADER: Final = 512
_FIRST_KEY: Final = re.compile(r'\{\s{0,64}"(\w{1,16})"')
_FIRST_KEY_BEGUN: Final = re.compile(r'\{\s{0,64}(?:"(\w{0,16}))?')
_CALL_KEYS: Final = ("name", "type", "function", "parameters", "arguments", "tool_name", "id")

ReadSpan = Callable[[str, CallReader], list[ToolCall] | None]


@dataclass(frozen=True)
class Marks:
    """Where something begins and where it ends."""

    open: str
    close: str


@dataclass(frozen=True)
class ToolSyntax:
    """How a family writes tool calls.

    opens    the markers a call begins with
    closers  markers that may follow a call and belong to it
    header   finds the tool's name (group 1) between the marker and the arguments; None: there is only JSON
    ends     the markers that end a call which is not JSON; `read` then reads what was between, markers included
    bare     the answer itself may be a call: it then begins with a JSON object
    """

    opens: tuple[str, ...]
    closers: tuple[str, ...] = ()
    header: re.Pattern[str] | None = None
    ends: tuple[str, ...] = ()
    read: ReadSpan | None = None
    bare: bool = False


class StreamParser:
    """A machine with one state for each thing the output can be in the middle of.

    A state takes what it can from the buffer and says whether there is more to do. What stays in the buffer
    between two feeds is never longer than a marker and the white space before it.
    """

    def __init__(
        self,
        *,
        think: Marks | None,
        inside: bool,
        tools: ToolSyntax | None,
        reader: CallReader,
        dropped: Sequence[str] = (),
    ) -> None:
        self._think = think
        self._syntax = tools
        self._reader = reader
        self._dropped = frozenset(dropped)
        self._marks = (*(tools.opens if tools else ()), *dropped)
        self._opens = _alternatives(self._marks)
        self._buffer = ""
        self._out: list[Piece] = []
        self._raw: list[str] = []
        self._header = ""
        self._value: list[str] = []
        self._json = JsonEnd()
        self._final = False
        self._state = self._think_lead if think and inside else self._start

    def feed(self, text: str) -> list[Piece]:
        """Take more of the output."""
        out: list[Piece] = []
        for at in range(0, len(text), PART):
            self._buffer += text[at : at + PART]
            out += self._run()
        return join(out)

    def end(self) -> list[Piece]:
        """Give what was held back."""
        self._final = True
        return self._run()

    def _run(self) -> list[Piece]:
        while self._state():
            pass
        out, self._out = self._out, []
        return join(out)

    def _emit(self, kind: str, text: str) -> None:
        if not text:
            return
        if kind == "thinking":
            self._out.append(Piece("thinking", text))
        else:
            self._out.append(Piece("text", text))

    # --- before the answer -----------------------------------------------------------------------------

    def _start(self) -> bool:
        """Thinking is only thinking at the very beginning: later its marker is a word like others."""
        if self._think is None:
            return self._go(self._answer)
        body = self._buffer.lstrip()
        if body.startswith(self._think.open):
            self._buffer = body[len(self._think.open) :]
            return self._go(self._think_lead)
        may_come = self._think.open.startswith(body) and len(self._buffer) - len(body) <= SPACE
        return self._go(self._answer) if self._final or not may_come else False

    def _think_lead(self) -> bool:
        self._buffer = self._buffer.lstrip()
        return self._go(self._thinking) if self._buffer else False

    def _thinking(self) -> bool:
        assert self._think is not None
        at = self._buffer.find(self._think.close)
        if at >= 0:
            text, _ = _split_space(self._buffer[:at])
            self._emit("thinking", text)
            self._buffer = self._buffer[at + len(self._think.close) :]
            return self._go(self._answer_lead)
        return self._flush("thinking", (self._think.close,))

    def _answer_lead(self) -> bool:
        self._buffer = self._buffer.lstrip()
        return self._go(self._answer) if self._buffer else False

    def _answer(self) -> bool:
        return self._go(self._bare if self._syntax and self._syntax.bare else self._text)

    # --- the answer ------------------------------------------------------------------------------------

    def _text(self) -> bool:
        found = self._opens.search(self._buffer)
        if found is None:
            return self._flush("text", self._marks)
        text, space = _split_space(self._buffer[: found.start()])
        self._buffer = self._buffer[found.end() :]
        self._emit("text", text)
        if found[0] in self._dropped:
            return self._go(self._answer_lead)
        self._raw = [space, found[0]]
        return self._open_call(spanning=bool(self._syntax and self._syntax.ends))

    def _flush(self, kind: str, marks: Sequence[str]) -> bool:
        """Give all of the buffer that cannot be the beginning of a marker."""
        keep = 0 if self._final else _held(self._buffer, marks)
        cut = len(self._buffer) - keep
        if marks and not self._final:
            cut = len(_split_space(self._buffer[:cut])[0])
        self._emit(kind, self._buffer[:cut])
        self._buffer = self._buffer[cut:]
        return False

    def _bare(self) -> bool:
        """An object that begins like a call is held back until it ends."""
        body = self._buffer.lstrip()
        space = self._buffer[: len(self._buffer) - len(body)]
        first = _FIRST_KEY.match(body)
        if first is not None and first[1] in _CALL_KEYS:
            self._raw, self._buffer = [space], body
            return self._open_call(spanning=False)
        begun = _FIRST_KEY_BEGUN.fullmatch(body)
        key = (begun[1] or "") if begun else ""
        may_come = begun is not None and any(name.startswith(key) for name in _CALL_KEYS)
        if not self._final and len(space) <= SPACE and (not body or may_come):
            return False
        return self._go(self._text)

    # --- a call ----------------------------------------------------------------------------------------

    def _open_call(self, *, spanning: bool) -> bool:
        self._header, self._value, self._json = "", [], JsonEnd()
        return self._go(self._span if spanning else self._call_header)

    def _call_header(self) -> bool:
        """What stands between the marker and the JSON: white space, or the tool's name."""
        assert self._syntax is not None
        header = self._header + self._buffer
        body = header.lstrip()
        at = len(header) - len(body) if body[:1] in {"{", "["} else header.find("{")
        wrong = body and at < 0 and self._syntax.header is None
        if wrong or (self._syntax.header is None and header[:at].strip()) or max(at, 0) > _HEADER:
            at, wrong = -1, True
        if at >= 0:
            self._header, self._buffer = header[:at], header[at:]
            self._raw.append(self._header)
            return self._go(self._call_json)
        if wrong or self._final or len(header) > _HEADER:
            self._buffer = header
            return self._fail()
        self._header, self._buffer = header, ""
        return False

    def _call_json(self) -> bool:
        try:
            end = self._json.feed(self._buffer)
        except NotJson as error:
            self._value.append(self._buffer[: error.at])
            self._buffer = self._buffer[error.at :]
            return self._fail()
        self._value.append(self._buffer[:end])
        self._buffer = "" if end is None else self._buffer[end:]
        if end is None:
            return self._fail() if self._final else False
        return self._close(self._read_json())

    def _read_json(self) -> list[ToolCall] | None:
        value = read_json("".join(self._value))
        if not self._header.strip():
            return self._reader.calls(value)
        pattern = self._syntax.header if self._syntax else None
        name = pattern.fullmatch(self._header.strip()) if pattern else None
        call = self._reader.call(name[1], value) if name else None
        return [call] if call else None

    def _span(self) -> bool:
        """Everything up to the marker that ends the call."""
        assert self._syntax is not None
        seen = self._header + self._buffer
        found = _alternatives(self._syntax.ends).search(seen)
        if found is not None:
            self._value.append(seen[: found.end()])
            self._buffer = seen[found.end() :]
            return self._read_span()
        # The end is kept back: it may be the beginning of the marker.
        keep = 0 if self._final else max(map(len, self._syntax.ends)) - 1
        cut = max(len(seen) - keep, 0)
        self._value.append(seen[:cut])
        self._header, self._buffer = seen[cut:], ""
        return self._read_span() if self._final else False

    def _read_span(self) -> bool:
        assert self._syntax is not None
        assert self._syntax.read is not None
        text = "".join([*self._raw[1:], *self._value])
        calls = self._syntax.read(text, self._reader)
        if calls is None:
            # A marker that was only mentioned may stand before the one that begins the call.
            for at in sorted(text.rfind(mark) for mark in self._syntax.opens):
                calls = self._syntax.read(text[at:], self._reader) if at > 0 else None
                if calls is not None:
                    self._emit("text", self._raw[0] + text[:at].rstrip())
                    break
        return self._close(calls)

    def _close(self, calls: list[ToolCall] | None) -> bool:
        if calls is None:
            return self._fail()
        self._out += [Piece("tool_call", call=call) for call in calls]
        self._raw, self._value = [], []
        return self._go(self._after)

    def _fail(self) -> bool:
        """It was no call: what was held back is text."""
        self._emit("text", "".join([*self._raw, *self._value]))
        self._raw, self._value = [], []
        return self._go(self._text)

    def _after(self) -> bool:
        assert self._syntax is not None
        self._buffer = self._buffer.lstrip()
        for closer in self._syntax.closers:
            if self._buffer.startswith(closer):
                self._buffer = self._buffer[len(closer) :]
                return True
        waiting = not self._buffer or any(mark.startswith(self._buffer) for mark in self._syntax.closers)
        if waiting and not self._final:
            return False
        return self._go(self._answer) if self._buffer else False

    def _go(self, state: Callable[[], bool]) -> bool:
        self._state = state
        return True


def _alternatives(marks: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")


def _split_space(text: str) -> tuple[str, str]:
    """The text, and the white space at its end that a following marker would take."""
    body = text[-SPACE:].rstrip()
    cut = max(len(text) - SPACE, 0) + len(body)
    return text[:cut], text[cut:]


def _held(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a marker."""
    longest = max(map(len, marks), default=0) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in marks):
            return size
    return 0
