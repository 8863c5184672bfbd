"""From the raw text of a chat's answer to text, thinking and tool calls, with the counts kept right."""

from __future__ import annotations

from collections.abc import Iterable

from akashllm.server.chat.formats import OutputParser, Piece
from akashllm.server.domain import Delta, Event, Finish, TokenLogprob


class AnswerReader:
    """Reads one choice. Tokens and log probabilities of text the parser holds back come with the next event."""

    __slots__ = ("_called", "_index", "_logprobs", "_parser", "_tokens")

    def __init__(self, parser: OutputParser) -> None:
        self._parser = parser
        self._index = 0
        self._tokens = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._called = False

    def delta(self, event: Delta) -> list[Event]:
        """What is certain of the answer by now."""
        self._index = event.index
        self._tokens += event.tokens
        self._logprobs += event.logprobs
        return self._events(self._parser.feed(event.text)) if event.text else []

    def finish(self, event: Finish) -> list[Event]:
        """What was held back, and the end: a choice that called a tool ends for that reason."""
        self._index = event.index
        events = self._events(self._parser.end())
        if self._tokens or self._logprobs:
            events.append(self._delta())
        if self._called and event.reason == "stop" and event.stop is None:
            event = Finish(index=event.index, reason="tool_calls", score=event.score)
        events.append(event)
        return events

    def _events(self, pieces: Iterable[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if piece.call is not None:
                self._called = True
                events.append(self._delta(call=piece))
            elif piece.kind == "thinking":
                events.append(self._delta(thinking=piece.text))
            else:
                events.append(self._delta(text=piece.text))
        return events

    def _delta(self, text: str = "", thinking: str = "", call: Piece | None = None) -> Delta:
        delta = Delta(
            index=self._index,
            text=text,
            thinking=thinking,
            tool_calls=(call.call,) if call is not None and call.call is not None else (),
            tokens=self._tokens,
            logprobs=self._logprobs,
        )
        self._tokens, self._logprobs = 0, ()
        return delta
