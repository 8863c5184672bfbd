"""What Ollama's dialect answers, as events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from akashllm.server.domain import Delta, Done, Event, Timings, ToolCall, Usage
from akashllm.server.engines.upstream.logprobs import listed
from akashllm.server.engines.upstream.payload import count, decode, entries, text
from akashllm.server.engines.upstream.single import SingleReader


class OllamaReader(SingleReader):
    """Reads the lines of one answer, a chat's or a generation's."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """The events of one line."""
        line = decode(data)
        message = line.get("message")
        said = message if isinstance(message, dict) else line
        logprobs = listed(line.get("logprobs"), self._request.logprobs or 0)
        delta = Delta(
            text=text(said.get("content")) or text(line.get("response")),
            thinking=text(said.get("thinking")),
            tool_calls=tuple(_called(call) for call in entries(said.get("tool_calls"))),
            tokens=len(logprobs) or 1,
            logprobs=logprobs,
        )
        reason = (text(line.get("done_reason")) or "stop") if line.get("done") is True else ""
        return self._part(line, count(line.get("prompt_eval_count")), delta, reason)

    def end(self) -> Iterable[Event]:
        """Counts and durations, if the last line came. Ollama leaves it out when an answer repeats itself."""
        last = self._whole()
        context = last.get("context")
        kept = context if isinstance(context, list) and self._request.want_context else []
        return [
            Done(
                usage=Usage(
                    prompt_tokens=count(last.get("prompt_eval_count")),
                    completion_tokens=self._made(count(last.get("eval_count")) or self._choice.tokens),
                ),
                timings=Timings(
                    prompt=count(last.get("prompt_eval_duration")),
                    decode=count(last.get("eval_duration")),
                ),
                context=tuple(token for token in kept if isinstance(token, int)),
            )
        ]


def _called(call: dict[str, Any]) -> ToolCall:
    function = call.get("function")
    named = function if isinstance(function, dict) else {}
    arguments = named.get("arguments")
    return ToolCall(
        id=text(call.get("id")),
        name=text(named.get("name")),
        arguments=msgspec.json.encode(arguments if isinstance(arguments, dict) else {}).decode(),
    )
