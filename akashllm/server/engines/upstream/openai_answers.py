"""What OpenAI's dialect answers, as events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Event,
    Generation,
    Message,
    Started,
    Timings,
    ToolCall,
    Usage,
)
from akashllm.server.engines.upstream.choices import Choice
from akashllm.server.engines.upstream.faults import broken_off
from akashllm.server.engines.upstream.logprobs import columns, listed
from akashllm.server.engines.upstream.openai_context import remember
from akashllm.server.engines.upstream.payload import count, decode, entries, text
from akashllm.server.engines.upstream.single import SingleReader

_MILLISECOND = 1_000_000


class _Call:
    """A tool call whose arguments come in pieces."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def add(self, piece: dict[str, Any]) -> None:
        """Another piece; id and name come once, with the first."""
        function = piece.get("function")
        self.id = self.id or text(piece.get("id"))
        if isinstance(function, dict):
            self.name = self.name or text(function.get("name"))
            arguments = function.get("arguments")
            if isinstance(arguments, dict):
                self.arguments.append(msgspec.json.encode(arguments).decode())
            elif isinstance(arguments, str):
                self.arguments.append(arguments)

    def whole(self) -> ToolCall | None:
        """The call; None if its arguments are not an object, as when the answer was cut in them."""
        arguments = "".join(self.arguments).strip() or "{}"
        try:
            if not self.name or not isinstance(msgspec.json.decode(arguments), dict):
                return None
        except (ValueError, RecursionError):
            return None
        return ToolCall(id=self.id, name=self.name, arguments=arguments)


class OpenAIReader:
    """Reads the chunks of one chat or completion, of all its choices."""

    def __init__(self, request: Generation, choice: Callable[[int], Choice]) -> None:
        self._request = request
        self._choices = [choice(index) for index in range(request.n)]
        self._calls: list[dict[int, _Call]] = [{} for _ in self._choices]
        self._text: list[str] = []
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}
        self._began = False
        self.over = False

    def feed(self, data: bytes) -> Iterable[Event]:
        """The events of one chunk."""
        if data == b"[DONE]":
            self.over = True
            return []
        chunk = decode(data)
        events: list[Event] = []
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        if isinstance(chunk.get("timings"), dict):
            self._timings = chunk["timings"]
        if not self._began:
            self._began = True
            progress = chunk.get("prompt_progress")
            known = progress if isinstance(progress, dict) else {}
            events.append(
                Started(prompt_tokens=count(known.get("total")), cached_tokens=count(known.get("cache")))
            )
        for entry in entries(chunk.get("choices")):
            index = entry.get("index", 0)
            if isinstance(index, int) and 0 <= index < len(self._choices):
                events += self._choice(index, entry)
        if self._request.want_context:
            self._text += [event.text for event in events if isinstance(event, Delta)]
        return events

    def _choice(self, index: int, entry: dict[str, Any]) -> Iterable[Event]:
        choice = self._choices[index]
        delta = entry.get("delta")
        said = delta if isinstance(delta, dict) else {}
        content = text(said.get("content")) or text(entry.get("text")) or text(said.get("refusal"))
        thinking = text(said.get("reasoning_content")) or text(said.get("reasoning"))
        for position, piece in enumerate(entries(said.get("tool_calls"))):
            number = piece.get("index", position)
            self._calls[index].setdefault(number if isinstance(number, int) else position, _Call()).add(piece)
        logprobs = self._logprobs(entry.get("logprobs"))
        events: list[Event] = []
        if content or thinking or logprobs:
            tokens = len(logprobs) or 1
            events += choice.delta(Delta(text=content, thinking=thinking, tokens=tokens, logprobs=logprobs))
        reason = text(entry.get("finish_reason"))
        if reason:
            events += self._flush(index)
            events += choice.finish("tool_calls" if reason == "function_call" else reason)
        return events

    def _flush(self, index: int) -> Iterable[Event]:
        """The calls, complete now. One whose arguments were cut is shown as the text it is."""
        choice = self._choices[index]
        for _, call in sorted(self._calls[index].items()):
            whole = call.whole()
            if whole is not None:
                yield from choice.delta(Delta(tool_calls=(whole,), tokens=1))
            elif call.arguments:
                yield from choice.delta(Delta(text="".join(call.arguments), tokens=1))
        self._calls[index].clear()

    def _logprobs(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, dict):
            return ()
        top = self._request.logprobs or 0
        return listed(value["content"], top) if value.get("content") else columns(value, top)

    def end(self) -> Iterable[Event]:
        """Usage, if every choice has ended."""
        if not self._began or not all(choice.finished for choice in self._choices):
            raise broken_off()
        details = self._usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        made = sum(choice.tokens for choice in self._choices)
        if self._request.max_tokens != 0:
            made = count(self._usage.get("completion_tokens")) or made
        return [
            Done(
                usage=Usage(
                    prompt_tokens=count(self._usage.get("prompt_tokens")),
                    completion_tokens=made,
                    cached_tokens=count(cached),
                ),
                timings=Timings(
                    prompt=round(_milliseconds(self._timings.get("prompt_ms")) * _MILLISECOND),
                    decode=round(_milliseconds(self._timings.get("predicted_ms")) * _MILLISECOND),
                ),
                context=self._context(),
            )
        ]

    def _context(self) -> tuple[int, ...]:
        prompt = self._request.prompt
        if not self._request.want_context or not isinstance(prompt, ChatPrompt):
            return ()
        answer = Message(role="assistant", content="".join(self._text))
        return (*prompt.prefix_tokens, *remember((*prompt.messages, answer)))


def _milliseconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


class InfillReader(SingleReader):
    """Reads what llama-server's `/infill` streams, which is its own form and not OpenAI's."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """The events of one chunk."""
        chunk = decode(data)
        delta = Delta(text=text(chunk.get("content")), tokens=1)
        ended = "length" if chunk.get("stop_type") == "limit" else "stop"
        reason = ended if chunk.get("stop") is True else ""
        return self._part(chunk, count(chunk.get("tokens_evaluated")), delta, reason)

    def end(self) -> Iterable[Event]:
        """Usage, if the answer has ended."""
        last = self._whole()
        made = self._made(count(last.get("tokens_predicted")))
        return [Done(usage=Usage(prompt_tokens=count(last.get("tokens_evaluated")), completion_tokens=made))]
