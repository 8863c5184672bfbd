"""One choice of an answer, from what the upstream says to what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from akashllm.server.chat.formats import OutputParser
from akashllm.server.domain import ChatPrompt, Delta, Event, Finish, FinishReason, Generation, Tool, ToolCall
from akashllm.server.engines.answer import AnswerReader
from akashllm.server.engines.upstream import forced


class Choice:
    """Turns deltas of one choice into events.

    A call that was forced by a schema arrives as text and leaves as a call. `parser` reads thinking and calls
    that the upstream left in the text. An answer of no tokens is one of a single token that is not shown, as
    upstreams need at least one.
    """

    def __init__(
        self, request: Generation, index: int, *, must: Sequence[Tool] = (), parser: OutputParser | None = None
    ) -> None:
        prompt = request.prompt
        self._index = index
        self._must = must
        self._text: list[str] = []
        self._reader = AnswerReader(parser) if parser is not None and not must else None
        self._silent = request.max_tokens == 0
        self._single = isinstance(prompt, ChatPrompt) and not prompt.parallel_tool_calls
        self._top = request.logprobs
        self._score = 0.0 if request.score else None
        self._calls = 0
        self.tokens = 0
        self.finished = False

    def delta(self, delta: Delta) -> list[Event]:
        """What may be shown of a delta."""
        if self._silent or self.finished:
            return []
        if self._score is not None:
            self._score += sum(token.logprob for token in delta.logprobs)
        self.tokens += delta.tokens
        delta = msgspec.structs.replace(
            delta,
            index=self._index,
            tool_calls=self._allowed(delta.tool_calls),
            logprobs=() if self._top is None else delta.logprobs,
        )
        if self._must and delta.text:
            self._text.append(delta.text)
            delta = msgspec.structs.replace(delta, text="")
        if self._reader is not None and delta.text and not (delta.thinking or delta.tool_calls):
            return self._reader.delta(delta)
        return [delta] if _says(delta) else []

    def finish(self, reason: str) -> list[Event]:
        """What was held back, and the end, for the upstream's reason."""
        if self.finished:
            return []
        self.finished = True
        if self._silent:
            return [Finish(index=self._index, reason="length", score=self._score)]
        events: list[Event] = []
        if self._text:
            text = "".join(self._text)
            call = forced.read(text, self._must)
            calls = self._allowed((call,)) if call is not None else ()
            if not self._calls:
                events.append(Delta(index=self._index, text=text))
            elif calls:
                events.append(Delta(index=self._index, tool_calls=calls))
        ended = Finish(index=self._index, reason=self._reason(reason), score=self._score)
        if self._reader is not None and reason != "tool_calls":
            return [*events, *self._reader.finish(ended)]
        return [*events, ended]

    def _reason(self, reason: str) -> FinishReason:
        if reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"

    def _allowed(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """The calls as they go out: one at most where one was asked for, each with an id."""
        if self._single:
            calls = calls[: max(0, 1 - self._calls)]
        self._calls += len(calls)
        return tuple(call if call.id else msgspec.structs.replace(call, id=forced.new_id()) for call in calls)


def _says(delta: Delta) -> bool:
    return bool(delta.text or delta.thinking or delta.tool_calls or delta.logprobs)
