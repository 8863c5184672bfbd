"""gpt-oss writes in channels: analysis is thinking, commentary to a function is a call, the rest is text.

The shape, as OpenAI's guide gives it: `<|channel|>NAME to=functions.X <|constrain|>json<|message|>` and
the body, ended by `<|end|>`, `<|call|>` or `<|return|>`; the next message begins with `<|start|>assistant`.
"""

from __future__ import annotations

import re
from typing import Final

from akashllm.server.chat.pieces import CallReader, Piece, join, read_json
from akashllm.server.chat.stream import PART, SPACE

_MESSAGE: Final = "<|message|>"
_HEADER_MARKS: Final = ("<|start|>", "<|channel|>")
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_END: Final = re.compile("|".join(map(re.escape, _ENDS)))
_LONGEST: Final = max(map(len, _ENDS))
_RECIPIENT: Final = re.compile(r"to=(?:functions\.)?([\w.\-]{1,128})")
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_HEADER: Final = 512


class HarmonyParser:
    """Reads headers and bodies in turn. Text without a header is text."""

    def __init__(self, *, reader: CallReader, prompt_tail: str = "") -> None:
        self._reader = reader
        self._buffer = ""
        self._out: list[Piece] = []
        self._header: str | None = ""
        self._held: list[str] = []
        self._kind = "text"
        self._call = ""
        self._final = False
        start = prompt_tail.rpartition("<|start|>")[2]
        if start.endswith(_MESSAGE):
            self._open(start.removesuffix(_MESSAGE))

    def feed(self, text: str) -> list[Piece]:
        """Take more of the output."""
        out: list[Piece] = []
        for at in range(0, len(text), PART):
            self._buffer += text[at : at + PART]
            out += self._run()
        return join(out)

    def end(self) -> list[Piece]:
        """Give what was held back; a call that was not ended is a call if it is whole."""
        self._final = True
        out = self._run()
        if self._kind == "call":
            self._close_call()
            out += self._out
            self._out = []
        return out

    def _run(self) -> list[Piece]:
        while self._in_header() if self._header is not None else self._in_body():
            pass
        out, self._out = self._out, []
        return out

    def _in_header(self) -> bool:
        """From a header's mark to `<|message|>`; anything else there is text."""
        body = self._buffer.lstrip()
        space = len(self._buffer) - len(body)
        if not body and space <= SPACE:
            return False
        begins = body.startswith((*_HEADER_MARKS, "to=", "assistant"))
        at = body.find(_MESSAGE, 0, _HEADER + len(_MESSAGE))
        if begins and at >= 0:
            self._buffer = body[at + len(_MESSAGE) :]
            self._open(body[:at])
            return True
        may_come = any(mark.startswith(body) for mark in (*_HEADER_MARKS, "to=", "assistant"))
        if not self._final and space <= SPACE and (may_come or (begins and len(body) <= _HEADER)):
            return False
        self._open("")
        if begins:
            # A header that never ends is text, its mark included: the body must not stop at it again.
            self._emit(self._buffer[: space + 1])
            self._buffer = self._buffer[space + 1 :]
        return True

    def _open(self, header: str) -> None:
        channel = _CHANNEL.search(header)
        recipient = _RECIPIENT.search(header)
        self._header, self._held, self._call = None, [], ""
        self._kind = "thinking" if channel and channel[1] == "analysis" else "text"
        if recipient and recipient[1] in self._reader.tools:
            self._kind, self._call = "call", recipient[1]
            self._held = [header + _MESSAGE]
        elif recipient:
            self._kind = "text"
            self._emit(header + _MESSAGE)

    def _in_body(self) -> bool:
        found = _END.search(self._buffer)
        if found is None:
            keep = 0 if self._final else _begun(self._buffer)
            cut = len(self._buffer) - keep
            self._emit(self._buffer[:cut])
            self._buffer = self._buffer[cut:]
            return False
        self._emit(self._buffer[: found.start()])
        if self._kind == "call":
            self._close_call()
        stays = found[0] in _HEADER_MARKS
        self._buffer = self._buffer[found.start() if stays else found.end() :]
        self._header, self._kind = "", "text"
        return True

    def _emit(self, text: str) -> None:
        if self._kind == "call":
            self._held.append(text)
        elif text:
            self._out.append(Piece("thinking" if self._kind == "thinking" else "text", text))

    def _close_call(self) -> None:
        header, *body = self._held
        call = self._reader.call(self._call, read_json("".join(body).strip() or "{}"))
        self._out.append(Piece("tool_call", call=call) if call else Piece("text", header + "".join(body)))
        self._kind, self._held = "text", []


def _begun(text: str) -> int:
    """Length of the longest end of `text` that begins one of the marks."""
    for size in range(min(_LONGEST - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in _ENDS):
            return size
    return 0
