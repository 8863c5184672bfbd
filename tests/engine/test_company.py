"""Many requests at once: nobody waits for anybody, and nobody's answer depends on the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

import pytest

from akashllm.errors import ServiceError
from akashllm.server.domain import Delta, Done, Event, Sampling
from akashllm.server.engines.feeds import TextFeed
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from tests.engine.ask import Reply, run, say, stream, text, until
from tests.engine.conftest import running

QUESTIONS = (
    "What is the capital of Japan?",
    "Count to 12.",
    "What is 7+8?",
    "Repeat after me: river stone moon",
    "Why is the sky blue?",
    "Li Hua is 33 years old and lives in Paris. Respond using JSON.",
    "Tell me a story.",
    "Who are you?",
    "What is the capital of France?",
    "Count to 15.",
    "Tell me a story about a cat.",
    "What is 3+4?",
    "What is the capital of Italy?",
    "Hello!",
    "Count to 9.",
    "How do you say dog in French?",
)
ANIMALS = ("cat", "dog", "bear", "owl", "fox", "hen", "cow", "pig", "ant", "bee", "bat", "rat")


async def test_killing_half_leaves_the_others_as_they_would_be_alone(engine: LlamaCppEngine) -> None:
    """Of 16 greedy streams 8 are cancelled on the way; the others say what they say alone."""
    alone = {question: (await run(engine, say(question, max_tokens=120))).text for question in QUESTIONS}
    for round_ in range(3):
        turned = QUESTIONS[round_:] + QUESTIONS[:round_]
        replies = await asyncio.gather(
            *(
                run(engine, say(question, max_tokens=120), tokens=1 + place % 5 if place % 2 else None)
                for place, question in enumerate(turned)
            )
        )
        kept = {question: replies[place].text for place, question in enumerate(turned) if place % 2 == 0}
        assert kept == {question: alone[question] for question in kept}


async def test_all_streams_advance_together(engine: LlamaCppEngine) -> None:
    """Among streams of different lengths none is served only after another is done."""
    clock = itertools.count()

    async def follow(place: int) -> list[int]:
        events = engine.generate(say(QUESTIONS[place], ignore_eos=True, max_tokens=20 + place))
        return [next(clock) async for event in events if isinstance(event, Delta)]

    times = await asyncio.gather(*(follow(place) for place in range(16)))
    assert max(seen[0] for seen in times) < min(seen[-1] for seen in times)


async def test_a_seed_gives_the_same_text_alone_and_in_company() -> None:
    """Seed, prompt and settings decide the text, whatever else is in the batch."""
    async with running(slots=12) as engine:
        for temperature in (0.7, 1.3):
            requests = [
                say(
                    f"Tell me a story about a {animal}.",
                    max_tokens=60,
                    sampling=Sampling(temperature=temperature, seed=100 + place, top_p=0.95, top_k=50),
                )
                for place, animal in enumerate(ANIMALS)
            ]
            alone = [await run(engine, one) for one in requests]
            company = await asyncio.gather(*(run(engine, one) for one in requests))
            assert [reply.text for reply in company] == [reply.text for reply in alone]
            assert len({reply.text for reply in alone}) > 1


@pytest.mark.parametrize("prompt", ["Tell me a story.", "The cat and the fox went out. " * 30])
async def test_a_seed_gives_the_same_text_again(engine: LlamaCppEngine, prompt: str) -> None:
    """On a quiet server a repetition is exact, whatever was there before."""
    sampling = Sampling(temperature=1.2, seed=7)
    texts = []
    for question in QUESTIONS[:5]:
        texts.append((await run(engine, text(prompt, max_tokens=40, sampling=sampling, ignore_eos=True))).text)
        await run(engine, say(question))
    assert len(set(texts)) == 1


async def test_different_seeds_differ(engine: LlamaCppEngine) -> None:
    """Without a seed, or with others, a warm model says other things."""
    texts = [
        (await run(engine, say("Tell me a story.", sampling=Sampling(temperature=1.5), max_tokens=40))).text
        for _ in range(4)
    ]
    assert len(set(texts)) > 1


async def test_a_prefix_is_evaluated_once() -> None:
    """What a finished request left in the cache is not evaluated again, and the count says so."""
    async with running(slots=4) as engine:
        shared = "Once upon a time there was a king who had three sons. " * 8
        first = await run(engine, text(shared + "One day", max_tokens=4))
        second = await run(engine, text(shared + "At night", max_tokens=4))
        assert first.cached == 0
        assert second.started is not None
        assert second.cached == second.started.cached_tokens
        assert second.cached >= len(await engine.tokenize(shared)) - 2
        again = await run(engine, text(shared + "One day", max_tokens=4))
        assert again.started is not None
        assert again.cached >= again.started.prompt_tokens - 2
        assert again.text == first.text


async def test_a_prefix_survives_other_requests() -> None:
    """A conversation that was put aside while others ran goes on from where it was, with the same words."""
    async with running(slots=2) as engine:
        story = "Once upon a time there was a king who had three sons. " * 12
        first = await run(engine, text(story, max_tokens=12, ignore_eos=True))
        others = [text(f"{animal} and fox went out. " * 20, max_tokens=3) for animal in ANIMALS]
        await asyncio.gather(*(run(engine, one) for one in others))
        again = await run(engine, text(story, max_tokens=12, ignore_eos=True))
        assert again.started is not None
        assert again.cached >= again.started.prompt_tokens - 2
        assert again.text == first.text


async def test_a_prefix_is_evaluated_once_even_while_it_is_being_evaluated() -> None:
    """Of requests that come at once with a common beginning, one evaluates it and the others wait for that."""
    async with running(slots=8) as engine:
        shared = "Once upon a time there was a king who had three sons. " * 60
        size = len(await engine.tokenize(shared))
        replies: list[Reply] = await asyncio.gather(
            *(run(engine, text(f"{shared}{number} days later", max_tokens=3)) for number in range(8))
        )
        cached = sorted(reply.cached for reply in replies)
        assert cached[0] == 0
        assert cached[1] >= size - 70
        evaluated = sum(reply.started.prompt_tokens - reply.cached for reply in replies if reply.started)
        assert evaluated < 2 * size


async def test_followers_survive_their_leader() -> None:
    """When the one that evaluates a common beginning is cancelled, those that wait go on with what there is."""
    async with running(slots=8) as engine:
        shared = "Once upon a time there was a king who had three sons. " * 100
        lead = asyncio.create_task(run(engine, text(shared + "One day", max_tokens=3)))
        followers = [
            asyncio.create_task(run(engine, text(f"{shared}{number} days later", max_tokens=3)))
            for number in range(3)
        ]
        await asyncio.sleep(0)
        lead.cancel()
        replies = await asyncio.gather(*followers)
        assert all(reply.done for reply in replies)


async def test_cancelling_frees_the_slot() -> None:
    """With one slot, a request runs as soon as the endless one before it is cancelled, and not before."""
    async with running(slots=1) as engine:
        endless = stream(engine, say("Tell me a story.", ignore_eos=True, shift=True))
        await anext(endless)
        waiting = asyncio.create_task(run(engine, say("What is 7+8?")))
        async for event in endless:
            assert not waiting.done()
            if isinstance(event, Delta) and engine.stats().waiting:
                break
        await endless.aclose()
        assert (await waiting).text == "7 + 8 = 15"
        assert engine.stats().running == 0


async def test_cancelling_while_waiting_and_while_reading_the_prompt() -> None:
    """A request can be cancelled in the queue and in the middle of its prompt; nothing of it stays."""
    async with running(slots=1) as engine:
        long = asyncio.create_task(run(engine, text(" the" * 1800, max_tokens=1)))
        queued = asyncio.create_task(run(engine, say("Hello!")))
        await until(lambda: engine.stats().waiting)
        queued.cancel()
        long.cancel()
        await asyncio.gather(long, queued, return_exceptions=True)
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"


async def test_a_long_prompt_holds_up_nobody(engine: LlamaCppEngine) -> None:
    """While a long prompt is read, a running stream goes on."""
    seen_during = 0
    finished = asyncio.Event()

    async def long() -> None:
        await run(engine, text(" the" * 1900, max_tokens=1))
        finished.set()

    task: asyncio.Task[None] | None = None
    async for event in engine.generate(say("Tell me a story.", ignore_eos=True, max_tokens=400)):
        if isinstance(event, Delta):
            if task is None:
                task = asyncio.create_task(long())
            elif not finished.is_set():
                seen_during += 1
        if isinstance(event, Done):
            break
    assert task is not None
    await task
    assert seen_during > 2


async def test_a_full_cache_puts_the_youngest_back_and_all_finish() -> None:
    """With less cache than the slots could need, requests give way and still come to their whole end."""
    async with running(slots=6, context=512, cache=768) as engine:
        replies = await asyncio.gather(
            *(
                run(engine, say(f"Tell me a story about a {animal}.", ignore_eos=True, max_tokens=300))
                for animal in ANIMALS[:6]
            )
        )
        for animal, reply in zip(ANIMALS, replies, strict=False):
            assert reply.done is not None
            assert reply.done.usage.completion_tokens == 300
            alone = await run(engine, say(f"Tell me a story about a {animal}.", ignore_eos=True, max_tokens=40))
            assert reply.text.startswith(alone.text)


async def test_a_slow_reader_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader does not fetch stops growing, others are not held up, and nothing is lost."""
    monkeypatch.setattr("akashllm.server.engines.framed.HIGH_WATER", 1000)
    async with running(slots=2) as engine:
        slow = stream(engine, say("Tell me a story.", ignore_eos=True, shift=True, max_tokens=1200))
        await anext(slow)
        feed = next(iter(engine._feeds.values()))
        assert isinstance(feed, TextFeed)
        await until(lambda: feed.held)
        assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"
        size = feed.size
        assert (await run(engine, say("Count to 12."))).done
        assert feed.size <= size + 1000
        tokens = 0
        async for event in slow:
            if isinstance(event, Delta):
                tokens += event.tokens
        assert tokens == 1200


async def test_an_answer_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in reading one answer ends that request, in words: not the child, and not the others'."""
    read = LlamaCppEngine._read

    def faulty(self: LlamaCppEngine, feed: TextFeed, event: Event) -> Iterable[Event]:
        if feed.request.max_tokens == 300 and isinstance(event, Delta):
            raise RecursionError
        return read(self, feed, event)

    monkeypatch.setattr(LlamaCppEngine, "_read", faulty)
    async with running(slots=2) as engine:
        good = asyncio.create_task(run(engine, say("Tell me a story.", ignore_eos=True, max_tokens=200)))
        with pytest.raises(ServiceError, match="cannot be read"):
            await run(engine, say("Tell me a story.", ignore_eos=True, max_tokens=300))
        reply = await good
        assert reply.done is not None
        assert reply.done.usage.completion_tokens == 200
        await until(lambda: not engine._stats.running)
        assert engine.stats().restarts == 0


async def test_no_cross_talk(engine: LlamaCppEngine) -> None:
    """Of 100 requests with random ends each gets its own answer."""

    async def one(number: int) -> None:
        a, b = number % 9 + 1, number // 12 + 1
        cut = number % 3 + 2 if number % 4 == 0 else None
        reply = await run(engine, say(f"What is {a}+{b}?"), tokens=cut)
        assert f"{a} + {b} = {a + b}".startswith(reply.text)

    await asyncio.gather(*(one(number) for number in range(100)))
    assert engine.stats().running == engine.stats().waiting == 0
