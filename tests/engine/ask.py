"""Asking an engine, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Event,
    Finish,
    FinishReason,
    Generation,
    Message,
    Prompt,
    Sampling,
    Started,
    TextPrompt,
    TokenLogprob,
    ToolCall,
)
from akashllm.server.engine import Engine

GREEDY = Sampling(temperature=0.0)


@dataclass
class Reply:
    """Everything a request gave."""

    started: Started | None = None
    texts: dict[int, str] = field(default_factory=dict)
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    finishes: dict[int, Finish] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    done: Done | None = None

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.texts.get(0, "")

    @property
    def reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.reasons[0]

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were not evaluated."""
        assert self.done is not None
        return self.done.usage.cached_tokens


def say(text: str, **options: Any) -> Generation:
    """A chat of one message, greedy unless told otherwise."""
    return chat(Message(role="user", content=text), **options)


def chat(*messages: Message, prompt: dict[str, Any] | None = None, **options: Any) -> Generation:
    """A chat; `prompt` are further fields of its prompt."""
    return ask(ChatPrompt(messages=messages, **(prompt or {})), **options)


def text(text: str, **options: Any) -> Generation:
    """A plain text to go on from."""
    return ask(TextPrompt(text=text), **options)


def ask(prompt: Prompt, **options: Any) -> Generation:
    """Any prompt, greedy unless told otherwise."""
    options.setdefault("sampling", GREEDY)
    return Generation(id="test", model="tiny", prompt=prompt, **options)


async def stream(engine: Engine, request: Generation) -> AsyncGenerator[Event]:
    """The events, as a generator that can be closed."""
    events = engine.generate(request)
    assert isinstance(events, AsyncGenerator)
    async with aclosing(events):
        async for event in events:
            yield event


async def until(condition: Callable[[], object]) -> None:
    """Wait for something only another process can bring about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


async def run(engine: Engine, request: Generation, *, tokens: int | None = None) -> Reply:
    """The whole answer, or as much of it as `tokens` tokens, after which the request is cancelled."""
    reply = Reply()
    seen = 0
    async with aclosing(stream(engine, request)) as events:
        async for event in events:
            match event:
                case Started():
                    assert reply.started is None
                    reply.started = event
                case Delta():
                    assert reply.started is not None
                    reply.deltas.append(event)
                    reply.texts[event.index] = reply.texts.get(event.index, "") + event.text
                    reply.thinking += event.thinking
                    reply.calls += event.tool_calls
                    reply.logprobs += event.logprobs
                    seen += event.tokens
                    if tokens is not None and seen >= tokens:
                        return reply
                case Finish():
                    reply.reasons[event.index] = event.reason
                    reply.finishes[event.index] = event
                case Done():
                    reply.done = event
    assert reply.done is not None
    assert reply.done.usage.completion_tokens == seen
    return reply
