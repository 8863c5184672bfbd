"""Names, places, waiting for the model, and how long it stays."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from akashllm.errors import BadRequest, Busy, EngineFailed, ModelNotFound
from akashllm.server.admission import FULL, Admission, Place
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    Delta,
    Done,
    Embedding,
    Event,
    Finish,
    Generation,
    Sampling,
    Started,
    TextPrompt,
    TokenPrompt,
    Tool,
)
from akashllm.server.engine import Engine
from akashllm.server.guard.limits import check
from akashllm.server.runtime import Runtime
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine, chat, message
from tests.service.support import until


def runtime(engine: ScriptedEngine | None = None, **settings: Any) -> Runtime:
    """A runtime over a scripted engine."""
    return Runtime(Settings(**settings), engine or ScriptedEngine())


async def collect(found: Runtime, request: Generation) -> list[Event]:
    """Every event of one request."""
    return [event async for event in found.generate(request)]


# --- names -------------------------------------------------------------------------------------------------


def test_names_resolve_as_ollama_resolves_them() -> None:
    """The tag may be left out, case does not matter, and aliases are as good as the name."""
    found = runtime(model_aliases=("llama3:8b", "Me/Mine"))
    assert found.serves() == ("tiny:latest", "llama3:8b", "Me/Mine:latest")
    for typed in ("tiny", "TINY", "tiny:latest", "library/tiny", "registry.ollama.ai/library/tiny:latest"):
        assert found.resolve(typed) == "tiny:latest"
    assert found.resolve("llama3:8B") == "llama3:8b"
    assert found.resolve("me/mine") == "Me/Mine:latest"


@pytest.mark.parametrize("typed", ["llama3", "tiny:q4", "other", "", None, "me/tiny"])
def test_other_names_are_not_found(typed: str | None) -> None:
    """A model that is not served is not found; the hint says what is."""
    with pytest.raises(ModelNotFound) as caught:
        runtime().resolve(typed)
    assert caught.value.param == "model"
    assert "tiny:latest" in caught.value.hint


@pytest.mark.parametrize("typed", ["../etc/passwd", "a b", "x" * 400, "-x", "a//b", "http://x/y"])
def test_what_is_no_name_is_a_bad_request(typed: str) -> None:
    """A malformed name is refused without being looked for, and never echoed."""
    with pytest.raises(BadRequest) as caught:
        runtime().resolve(typed)
    assert typed not in caught.value.message


def test_a_star_answers_to_anything() -> None:
    """With the alias `*` every name means the model, and the star itself is not listed."""
    found = runtime(model_aliases=("*", "gpt-4o"))
    assert found.resolve("whatever you like") == "tiny:latest"
    assert found.serves() == ("tiny:latest", "gpt-4o:latest")


# --- places ------------------------------------------------------------------------------------------------


async def test_the_queue_is_bounded() -> None:
    """One request more than the slots and the queue hold is refused in Ollama's words, with a time to retry."""
    gate = asyncio.Event()
    found = runtime(ScriptedEngine({"x": Reply("y", gate=gate)}), concurrency=2, queue=3)
    tasks = [asyncio.create_task(collect(found, chat("x", request_id=str(i)))) for i in range(5)]
    await until(lambda: found.admission.used == 2 and found.admission.waiting == 3)
    with pytest.raises(Busy) as caught:
        await collect(found, chat("x"))
    assert caught.value.message == FULL == "server busy, please try again.  maximum pending requests exceeded"
    assert caught.value.retry_after
    gate.set()
    assert all(isinstance(events[-1], Done) for events in await asyncio.gather(*tasks))
    assert (found.admission.used, found.admission.waiting) == (0, 0)


async def test_waiting_has_an_end() -> None:
    """A request that waited too long for a slot is refused; the one that runs is not disturbed."""
    gate = asyncio.Event()
    found = runtime(ScriptedEngine({"x": Reply("y", gate=gate)}), concurrency=1, queue_timeout=0.02)
    running = asyncio.create_task(collect(found, chat("x")))
    await until(lambda: found.admission.used == 1)
    with pytest.raises(Busy, match="no slot became free"):
        await collect(found, chat("x"))
    gate.set()
    assert isinstance((await running)[-1], Done)


async def test_choices_count_as_slots() -> None:
    """A request for several choices takes as many slots; one for more than there are takes all."""
    gate = asyncio.Event()
    found = runtime(ScriptedEngine({"x": Reply("y", gate=gate)}), concurrency=4)
    wide = asyncio.create_task(collect(found, msgspec.structs.replace(chat("x"), n=3)))
    await until(lambda: found.admission.used == 3)
    wider = asyncio.create_task(collect(found, msgspec.structs.replace(chat("x"), n=9)))
    narrow = asyncio.create_task(collect(found, chat("x")))
    await until(lambda: found.admission.waiting == 2)
    assert found.admission.used == 3, "a narrow request must not starve the wide one before it"
    gate.set()
    await asyncio.gather(wide, wider, narrow)
    assert found.admission.used == 0


async def test_places_survive_any_interleaving() -> None:
    """Whatever order requests come, get their turn, give up and finish in, no slot is lost or given twice."""
    chance = random.Random(7)
    for _ in range(300):
        admission = Admission(chance.randint(1, 4), chance.randint(0, 5))
        places: list[Place] = []
        tasks: list[asyncio.Task[None]] = []
        for _ in range(30):
            if places and chance.random() < 0.5:
                place = places.pop(chance.randrange(len(places)))
                admission.leave(place)
                admission.leave(place)
            else:
                with contextlib.suppress(Busy):
                    place = admission.join(chance.randint(1, 6))
                    places.append(place)
                    if chance.random() < 0.3:
                        tasks.append(asyncio.create_task(place.wait(0.0005)))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
            assert admission.used == sum(place.weight for place in places if place.held)
            assert 0 <= admission.used <= admission.slots
            assert admission.waiting == sum(not place.held for place in places) <= admission.queue
            if admission.waiting:
                head = next(place for place in places if not place.held)
                assert admission.used + head.weight > admission.slots
        for place in places:
            admission.leave(place)
        assert (admission.used, admission.waiting) == (0, 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- loading -----------------------------------------------------------------------------------------------


async def test_requests_wait_for_the_model() -> None:
    """A request that comes while the model loads waits, and says how long it did."""
    engine = ScriptedEngine(manual=True)
    found = runtime(engine)
    found.start()
    tasks = [asyncio.create_task(collect(found, chat("x"))) for _ in range(3)]
    await until(lambda: engine.state == "loading")
    await asyncio.sleep(0)
    assert engine.requests == []
    engine.finish_loading()
    for events in await asyncio.gather(*tasks):
        assert isinstance(events[-1], Done)
        assert events[-1].timings.load > 0
    assert engine.loads == 1


async def test_the_wait_is_bounded() -> None:
    """A load that takes too long is a 503 with a time to retry; the load itself goes on."""
    engine = ScriptedEngine(manual=True)
    found = runtime(engine, load_timeout=0.02)
    with pytest.raises(Busy, match="still loading") as caught:
        await collect(found, chat("x"))
    assert caught.value.retry_after
    engine.finish_loading()
    assert isinstance((await collect(found, chat("x")))[-1], Done)
    assert engine.loads == 1


async def test_a_failed_load_says_why() -> None:
    """Whoever waits gets the reason, and whoever comes soon after gets it at once."""
    engine = ScriptedEngine(manual=True)
    found = runtime(engine)
    waiting = asyncio.create_task(found.ready())
    await until(lambda: engine.state == "loading")
    engine.fail_loading("the file is cut short")
    with pytest.raises(EngineFailed, match="cut short"):
        await waiting
    with pytest.raises(EngineFailed, match="cut short") as caught:
        await collect(found, chat("x"))
    assert caught.value.retry_after
    assert engine.loads == 1
    assert found.admission.used == 0


async def test_one_that_gives_up_does_not_stop_the_load() -> None:
    """A request that is cancelled while the model loads leaves the load to the others."""
    engine = ScriptedEngine(manual=True)
    found = runtime(engine)
    first, second = (asyncio.create_task(found.ready()) for _ in range(2))
    await until(lambda: engine.state == "loading")
    first.cancel()
    engine.finish_loading()
    assert await second > 0


# --- keep-alive --------------------------------------------------------------------------------------------


async def test_a_model_stays_by_default() -> None:
    """Unless somebody says otherwise the model never leaves memory."""
    found = runtime()
    await collect(found, chat("x"))
    assert found.loaded()
    assert found.expires_at() is None


async def test_an_idle_model_leaves() -> None:
    """The countdown starts with the end of the last request, and the next request brings the model back."""
    engine = ScriptedEngine()
    found = runtime(engine, keep_alive=0.03)
    await collect(found, chat("x"))
    expires = found.expires_at()
    assert expires is not None
    assert expires > datetime.now(UTC) or not found.loaded()
    await until(lambda: engine.state == "unloaded")
    assert found.expires_at() is None
    await collect(found, chat("x"))
    assert engine.loads == 2


async def test_a_busy_model_stays() -> None:
    """No countdown runs while a request does."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"x": Reply("y", gate=gate)})
    found = runtime(engine, keep_alive=0.01)
    task = asyncio.create_task(collect(found, chat("x")))
    await until(lambda: engine.requests)
    await asyncio.sleep(0.05)
    assert found.loaded()
    gate.set()
    await task
    await until(lambda: not found.loaded())


async def test_unload_waits_for_requests() -> None:
    """Unloading while a request runs happens when it has ended."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"x": Reply("y", gate=gate)})
    found = runtime(engine)
    task = asyncio.create_task(collect(found, chat("x")))
    await until(lambda: engine.requests)
    await found.unload()
    assert found.loaded()
    gate.set()
    await task
    await until(lambda: not found.loaded())
    await found.unload()
    assert engine.loads == 1


async def test_a_request_sets_the_duration() -> None:
    """What one request sets stays until another sets it or the model leaves; negative is forever, 0 is now."""
    engine = ScriptedEngine()
    found = runtime(engine)
    await collect(found, chat("x"))
    found.keep_alive(3600)
    first = found.expires_at()
    assert first is not None
    assert 3500 < (first - datetime.now(UTC)).total_seconds() <= 3600
    found.keep_alive(None)
    assert found.expires_at() == first
    found.keep_alive(-1)
    assert found.expires_at() is None
    stream = found.generate(chat("x"))
    assert isinstance(await anext(stream), Started)
    found.keep_alive(0)
    async for _ in stream:
        assert found.loaded()
    await until(lambda: not found.loaded())
    assert found.expires_at() is None


# --- what passes through -----------------------------------------------------------------------------------


async def test_closing_the_iterator_cancels() -> None:
    """A consumer that stops early cancels the request in the engine and frees its place."""
    engine = ScriptedEngine({"x": Reply("a b c")})
    found = runtime(engine)
    stream = found.generate(chat("x", request_id="r1"))
    async for event in stream:
        if isinstance(event, Delta):
            break
    await stream.aclose()  # type: ignore[attr-defined] # it is a generator, as promised
    assert engine.cancelled == ["r1"]
    assert found.admission.used == 0


async def test_embeddings_pass_the_same_gates() -> None:
    """An embedding waits for the model and a slot, and counts."""
    found = runtime()
    answer = await found.embed(Embedding(id="e", model="tiny:latest", inputs=("a", "b", "a")))
    assert answer.vectors[0] == answer.vectors[2] != answer.vectors[1]
    assert answer.timings.load > 0
    assert found.admission.used == 0


@pytest.mark.parametrize(
    ("change", "param", "variable"),
    [
        ({"n": 3}, "n", "MAX_N"),
        ({"stop": ("a", "b", "c")}, "stop", "MAX_STOP"),
        ({"stop": ("abcdef",)}, "stop", "MAX_STOP_BYTES"),
        ({"logprobs": 3}, "top_logprobs", "MAX_LOGPROBS"),
        ({"prompt_logprobs": 3}, "logprobs", "MAX_LOGPROBS"),
        ({"sampling": Sampling(logit_bias={1: 1.0, 2: 1.0, 3: 1.0})}, "logit_bias", "MAX_LOGIT_BIAS"),
        ({"constraint": Constraint(kind="regex", value="a" * 33)}, "response_format", "MAX_SCHEMA_BYTES"),
        ({"prompt": TextPrompt(text="a" * 33)}, "prompt", "MAX_PROMPT_BYTES"),
        ({"prompt": TextPrompt(text="\u00e9" * 17)}, "prompt", "MAX_PROMPT_BYTES"),
        ({"prompt": TokenPrompt(tokens=(1,) * 9)}, "prompt", "MAX_PROMPT_BYTES"),
        ({"prompt": ChatPrompt(messages=(message("a"),) * 3)}, "messages", "MAX_MESSAGES"),
        ({"prompt": ChatPrompt(messages=(message("a" * 33),))}, "messages", "MAX_PROMPT_BYTES"),
        ({"prompt": ChatPrompt(messages=(), tools=(Tool(name="t"),) * 3)}, "tools", "MAX_TOOLS"),
        ({"prompt": ChatPrompt(messages=(), tools=(Tool(name="t" * 99),))}, "tools", "MAX_TOOL_BYTES"),
    ],
)
def test_every_limit_has_a_name(change: dict[str, Any], param: str, variable: str) -> None:
    """Each limit is its own error: the parameter, and the variable that sets it; one less passes."""
    tight = Settings(
        max_n=2,
        max_stop=2,
        max_stop_bytes=5,
        max_logprobs=2,
        max_logit_bias=2,
        max_schema_bytes=32,
        max_prompt_bytes=32,
        max_messages=2,
        max_tools=2,
        max_tool_bytes=99,
    )
    request = msgspec.structs.replace(chat("hi"), **change)
    with pytest.raises(BadRequest) as caught:
        check(request, tight)
    assert caught.value.param == param
    assert f"AKASHLLM_{variable}" in caught.value.message
    assert caught.value.code == "limit_exceeded"
    check(request, Settings())


def test_inputs_of_embeddings_have_limits() -> None:
    """So many inputs, so many bytes."""
    for inputs in (("a",) * 3, ("a" * 40,), ((1,) * 10,)):
        with pytest.raises(BadRequest, match="AKASHLLM_MAX_"):
            check(Embedding(id="e", model="m", inputs=inputs), Settings(max_inputs=2, max_prompt_bytes=32))


# --- the scripted engine keeps the protocol ----------------------------------------------------------------


async def test_the_scripted_engine_is_an_engine() -> None:
    """The fake keeps the protocol: Started, deltas, a Finish a choice, Done; and tokenise has an inverse."""
    engine = ScriptedEngine({"x": Reply("one two three", thinking="hm so")})
    assert isinstance(engine, Engine)
    await engine.load()
    request = msgspec.structs.replace(chat("x"), n=2, max_tokens=4, logprobs=2)
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    assert [event.index for event in events if isinstance(event, Finish)] == [0, 1]
    assert [event.reason for event in events if isinstance(event, Finish)] == ["length", "length"]
    texts = "".join(event.text for event in events if isinstance(event, Delta) and event.index == 1)
    assert texts == "one two"
    tokens = await engine.tokenize("h\u00e9llo")
    assert await engine.detokenize(tokens) == "h\u00e9llo"
    with pytest.raises(BadRequest):
        await engine.detokenize([-1])
    stopped = [event async for event in engine.generate(msgspec.structs.replace(chat("x"), stop=("two",)))]
    assert next(event for event in stopped if isinstance(event, Finish)).stop == "two"
