"""Asking an upstream engine, and the whole of its answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Event,
    Finish,
    Generation,
    Message,
    Started,
    Tool,
    ToolCall,
)
from akashllm.server.engines.upstream.engine import UpstreamEngine
from tests.upstream.scripted import Scripted, listening

WEATHER = Tool(
    name="get_weather",
    description="The weather in a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def say(text: str = "Hi", **more: Any) -> Generation:
    """A request with one message. Fields of the prompt and of the request may be mixed."""
    chat = {name: more.pop(name) for name in list(more) if name in ChatPrompt.__struct_fields__}
    prompt = more.pop("prompt", None) or ChatPrompt(
        **{"messages": (Message(role="user", content=text),), **chat}
    )
    return Generation(id="x", model="tiny:latest", prompt=prompt, **more)


@dataclass
class Whole:
    """All that an answer said."""

    text: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, Finish] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    done: Done | None = None


def stream(engine: UpstreamEngine, request: Generation) -> AsyncGenerator[Event]:
    """The events, as the generator they are."""
    return cast("AsyncGenerator[Event]", engine.generate(request))


async def run(engine: UpstreamEngine, request: Generation) -> Whole:
    """The whole answer; `Started` is the first event and `Done` the last, each once."""
    whole = Whole()
    async with contextlib.aclosing(stream(engine, request)) as events:
        async for event in events:
            whole.events.append(event)
            match event:
                case Delta():
                    whole.text += event.text
                    whole.thinking += event.thinking
                    whole.calls += event.tool_calls
                    whole.texts[event.index] = whole.texts.get(event.index, "") + event.text
                case Finish():
                    assert event.index not in whole.finishes
                    whole.finishes[event.index] = event
                case Done():
                    whole.done = event
    kinds = [type(event) for event in whole.events]
    assert kinds[0] is Started
    assert kinds[-1] is Done
    assert (kinds.count(Started), kinds.count(Done)) == (1, 1)
    return whole


@contextlib.asynccontextmanager
async def over(upstream: Scripted, **options: Any) -> AsyncIterator[UpstreamEngine]:
    """An engine over a scripted upstream, loaded; what it asked while it loaded is forgotten."""
    async with listening(upstream):
        settings: dict[str, Any] = {"name": "tiny:latest", "interval": 60.0, "patience": 0.0}
        engine = UpstreamEngine(upstream.url, **settings | options)
        try:
            await engine.load()
            upstream.asked.clear()
            yield engine
        finally:
            await engine.close()
