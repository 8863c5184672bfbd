"""What comes back: choices, calls, thinking, probabilities, counts, and everything an upstream does wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from akashllm.errors import BadRequest, Busy, ContextOverflow, EngineDied, EngineFailed, ServiceError, TooLarge
from akashllm.server.domain import Delta, Embedding, Message, Sampling, TextPrompt
from akashllm.server.engines.upstream import link
from akashllm.server.engines.upstream.link import Link
from tests.upstream.ask import WEATHER, over, run, say, stream
from tests.upstream.scripted import (
    HELLO,
    OLLAMA_HELLO,
    USAGE,
    Asked,
    Scripted,
    chunk,
    lines,
    listening,
    ollama_like,
    openai_like,
    sse,
)

CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}


def arguments(text: str, index: int = 0) -> dict[str, Any]:
    """A piece of a call's arguments."""
    return chunk(tool_calls=[{"index": index, "function": {"arguments": text}}])


async def test_a_stream_of_openais() -> None:
    """Text, reason and counts come through; the counts of the end are those of the answer."""
    async with over(openai_like("somebody")) as engine:
        whole = await run(engine, say())
    assert whole.done is not None
    assert (whole.text, whole.finishes[0].reason) == ("Hello", "stop")
    assert (whole.done.usage.prompt_tokens, whole.done.usage.completion_tokens) == (7, 3)
    assert whole.done.timings.prompt > 0


async def test_a_stream_of_ollamas() -> None:
    """Text, reason, counts and durations come through."""
    async with over(ollama_like()) as engine:
        whole = await run(engine, say())
    assert whole.done is not None
    assert (whole.text, whole.finishes[0].reason) == ("Hello", "stop")
    assert (whole.done.usage.prompt_tokens, whole.done.usage.completion_tokens) == (7, 3)
    assert (whole.done.timings.prompt, whole.done.timings.decode) == (70, 30)


async def test_pieces_of_calls_become_whole_calls() -> None:
    """Names come once and arguments in pieces, of several calls at once; what goes out is whole."""
    second = {"index": 1, "id": "c2", "function": {"name": "get_weather", "arguments": "{}"}}
    answer = sse(
        chunk(tool_calls=[CALL]), arguments('{"ci'), chunk(tool_calls=[second]), arguments('ty":"Rome"}'),
        chunk(finish="tool_calls"),
    )  # fmt: skip
    async with over(openai_like("somebody", chat=answer)) as engine:
        whole = await run(engine, say(tools=(WEATHER,)))
        single = await run(engine, say(tools=(WEATHER,), parallel_tool_calls=False))
    assert [(call.id, call.arguments) for call in whole.calls] == [("c1", '{"city":"Rome"}'), ("c2", "{}")]
    assert whole.finishes[0].reason == "tool_calls"
    assert [call.id for call in single.calls] == ["c1"]


async def test_a_call_that_is_cut_is_text() -> None:
    """Arguments that end in the middle are no call; they are shown as what they are."""
    answer = sse(chunk(tool_calls=[CALL]), arguments('{"city":"Ro'), chunk(finish="length"))
    async with over(openai_like("somebody", chat=answer)) as engine:
        whole = await run(engine, say(tools=(WEATHER,)))
    assert (whole.calls, whole.text, whole.finishes[0].reason) == ([], '{"city":"Ro', "length")


async def test_ollamas_calls_come_in_its_last_line() -> None:
    """Calls in the line that says done are calls, with an id of ours where it has none."""
    call = {"function": {"index": 0, "name": "get_weather", "arguments": {"city": "Rome"}}}
    answer = lines({"message": {"content": "", "tool_calls": [call]}, "done": True, "done_reason": "stop"})
    async with over(ollama_like(chat=answer)) as engine:
        whole = await run(engine, say(tools=(WEATHER,)))
    (made,) = whole.calls
    assert (made.name, json.loads(made.arguments), bool(made.id)) == ("get_weather", {"city": "Rome"}, True)
    assert whole.finishes[0].reason == "tool_calls"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_thinking_has_two_names(key: str) -> None:
    """The thought is a thought, whatever the upstream calls it."""
    thought: dict[str, Any] = {key: "hm"}
    answer = sse(chunk(**thought), chunk("yes"), chunk(finish="stop"))
    async with over(openai_like("somebody", chat=answer)) as engine:
        whole = await run(engine, say())
    assert (whole.thinking, whole.text) == ("hm", "yes")


async def test_choices_are_requests_where_they_must_be() -> None:
    """Several choices are as many requests with seeds in a row; the prompt counts once."""
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        whole = await run(engine, say(n=3, sampling=Sampling(seed=5)))
    assert whole.texts == {0: "Hello", 1: "Hello", 2: "Hello"}
    assert sorted(whole.finishes) == [0, 1, 2]
    assert sorted(body["seed"] for body in upstream.bodies("/v1/chat/completions")) == [5, 6, 7]
    assert all("n" not in body for body in upstream.bodies("/v1/chat/completions"))
    assert whole.done is not None
    assert (whole.done.usage.prompt_tokens, whole.done.usage.completion_tokens) == (7, 9)


async def test_one_choice_that_fails_ends_all() -> None:
    """An error in one of several requests is the error of the whole, and the others are cancelled."""
    hold = asyncio.Event()
    answers = iter([[*sse(chunk("a"), done=False), hold], (400, b'{"error":{"message":"no"}}')])
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = lambda _: next(answers)
        with pytest.raises(BadRequest, match="no"):
            await run(engine, say(n=2))
        await asyncio.wait_for(upstream.gone.wait(), 5)


async def test_probabilities_in_every_shape() -> None:
    """Chat's entries, completions' columns and Ollama's list mean the same; a score is their sum."""
    entry = {
        "token": "\u20ac",
        "bytes": [226, 130],
        "logprob": -0.5,
        "top_logprobs": [{"token": "b", "logprob": -1}],
    }
    chat = sse({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [entry]}}]},
               chunk(finish="stop"))  # fmt: skip
    async with over(openai_like("somebody", chat=chat)) as engine:
        whole = await run(engine, say(logprobs=1, score=True))
        hidden = await run(engine, say(score=True))
    (token,) = next(event.logprobs for event in whole.events if isinstance(event, Delta))
    assert (token.data, token.logprob, token.top[0].data) == (b"\xe2\x82", -0.5, b"b")
    assert whole.finishes[0].score == hidden.finishes[0].score == -0.5
    assert not any(event.logprobs for event in hidden.events if isinstance(event, Delta))
    columns = {"tokens": ["bytes:\\xe2\\x82"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -2, "b": -1}]}
    text = sse({"choices": [{"index": 0, "text": "x", "logprobs": columns, "finish_reason": "stop"}]})
    async with over(openai_like("vllm", **{"v1/completions": text})) as engine:
        whole = await run(engine, say(prompt=TextPrompt(text="a"), logprobs=1))
    (token,) = next(event.logprobs for event in whole.events if isinstance(event, Delta))
    assert (token.data, token.logprob, token.top[0].data) == (b"\xe2\x82", -0.5, b"b")
    line = lines({"message": {"content": "x"}, "logprobs": [entry], "done": True})
    async with over(ollama_like(chat=line)) as engine:
        whole = await run(engine, say(logprobs=1))
    (token,) = next(event.logprobs for event in whole.events if isinstance(event, Delta))
    assert (token.data, token.top[0].data) == (b"\xe2\x82", b"b")


async def test_no_tokens_are_no_tokens() -> None:
    """A limit of 0 asks the upstream for one token and shows none."""
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        whole = await run(engine, say(max_tokens=0))
    assert upstream.asked[0].body["max_tokens"] == 1
    assert whole.done is not None
    assert (whole.text, whole.finishes[0].reason, whole.done.usage.completion_tokens) == ("", "length", 0)


async def test_the_oldest_messages_give_way() -> None:
    """Where the upstream only refuses, messages are dropped until it does not; the first and last stay."""

    def answer(asked: Asked) -> Any:
        size = sum(len(message["content"]) for message in asked.body["messages"])
        told = {"message": "too long", "n_prompt_tokens": size, "n_ctx": 100}
        return (400, json.dumps({"error": told}).encode()) if size > 100 else HELLO

    upstream = openai_like("somebody", chat=answer)
    messages = (
        Message(role="system", content="S"),
        *(Message(role=("user", "assistant")[i % 2], content=f"{i}" * 40) for i in range(8)),
        Message(role="user", content="last"),
    )
    async with over(upstream) as engine:
        await run(engine, say(messages=messages, drop_oldest=True))
        kept = upstream.asked[-1].body["messages"]
        assert (kept[0]["content"], kept[-1]["content"]) == ("S", "last")
        assert len(upstream.asked) <= 4
        with pytest.raises(ContextOverflow) as caught:
            await run(engine, say(messages=messages))
        assert (caught.value.prompt_tokens, caught.value.context) == (325, 100)
        with pytest.raises(BadRequest):
            await run(engine, say("x" * 500, drop_oldest=True))


OVERFLOWS = [
    {"code": 400, "message": "request (30 tokens) exceeds the available context size (20 tokens), try it"},
    {"code": 500, "message": "input (30 tokens) is too large to process. (current batch size: 20)"},
    '{"error":{"code":400,"message":"x","n_prompt_tokens":30,"n_ctx":20}}',
    {"message": "This model's maximum context length is 20 tokens. However, you requested 35 (30 in the"},
    {"message": "This model's maximum context length is 20 tokens. However, your request has 30 input tokens"},
    {"message": "You passed 30 input tokens and asked for 5. However, the context length is only 20 "},
    "the prompt has 30 tokens and the context window of this model is 20 tokens: shorten it",
]


@pytest.mark.parametrize("told", OVERFLOWS, ids=range(len(OVERFLOWS)))
async def test_too_long_is_said_with_both_numbers(told: Any) -> None:
    """However an upstream says that a prompt is too long, ours is the one error with both counts."""
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = (500, json.dumps({"error": told}).encode())
        with pytest.raises(ContextOverflow) as caught:
            await run(engine, say())
    assert (caught.value.prompt_tokens, caught.value.context) == (30, 20)


REFUSALS: list[tuple[int, str, type[ServiceError], str]] = [
    (400, '{"error":{"message":"bad thing","param":"stop","code":"odd"}}', BadRequest, "bad thing"),
    (400, '{"error":"invalid format: \\"xml\\""}', BadRequest, "invalid format"),
    (422, '{"detail":"field required"}', BadRequest, "field required"),
    (400, "not json at all", BadRequest, "not json at all"),
    (400, "<html>no</html>", BadRequest, "HTTP status 400"),
    (302, "", EngineFailed, "redirect"),
    (401, '{"error":"Unauthorized"}', EngineFailed, "does not accept this service's key"),
    (404, '{"error":"model \'m\' not found"}', EngineFailed, "no such model"),
    (413, "{}", TooLarge, "this size"),
    (429, '{"error":{"message":"slow down"}}', Busy, "slow down"),
    (499, '{"error":"request canceled"}', EngineDied, "request canceled"),
    (500, '{"error":{"message":"boom\\u001b[31m\\nat line"}}', EngineDied, r"boom \[31m at line"),
    (503, '{"error":"server busy, please try again.  maximum pending requests exceeded"}', Busy, "server busy"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), REFUSALS)
async def test_refusals_become_ours(status: int, body: str, kind: type[ServiceError], words: str) -> None:
    """A client's fault stays one, the operator's does not become the client's, and waits are told."""
    upstream = openai_like("somebody")
    upstream.headers = {"retry-after": "7", "location": "http://127.0.0.1:9/"}
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = (status, body.encode())
        with pytest.raises(kind, match=words) as caught:
            await run(engine, say())
    assert type(caught.value) is kind
    assert caught.value.retry_after == (7 if kind is Busy else None)
    if "param" in body:
        assert (caught.value.param, caught.value.code) == ("stop", "odd")


BROKEN: list[tuple[str, Scripted, type[ServiceError], str]] = [
    (
        "an error in a stream",
        openai_like("s", sse(chunk("a"), {"error": {"message": "oom"}})),
        EngineDied,
        "oom",
    ),
    (
        "one of vLLM's",
        openai_like("s", sse(chunk("a"), {"error": {"message": "x", "code": 400}})),
        BadRequest,
        "x",
    ),
    ("no end mark, no reason", openai_like("s", sse(chunk("a"), done=False)), EngineDied, "before its answer"),
    ("an end mark alone", openai_like("s", sse()), EngineDied, "before its answer"),
    ("nothing", openai_like("s", []), EngineDied, "before its answer"),
    ("no JSON", openai_like("s", [b"data: {nope\n\n"]), EngineDied, "not JSON"),
    ("no object", openai_like("s", [b"data: [1]\n\n"]), EngineDied, "no JSON object"),
    ("a page", openai_like("s", [b"<html>hello</html>\n"]), EngineDied, "before its answer"),
    ("a cut body", openai_like("s", [*sse(chunk("a"), done=False), None]), EngineDied, "broke"),
    (
        "Ollama's error line",
        ollama_like(lines({"message": {"content": "a"}}, {"error": "gone"})),
        EngineDied,
        "gone",
    ),
    (
        "Ollama without an end",
        ollama_like(lines({"message": {"content": "a"}, "done": False})),
        EngineDied,
        "before",
    ),
]


@pytest.mark.parametrize(("what", "upstream", "kind", "words"), BROKEN, ids=[case[0] for case in BROKEN])
async def test_broken_answers_end_with_an_error(
    what: str, upstream: Scripted, kind: type[ServiceError], words: str
) -> None:
    """Whatever an upstream does, a request ends with one of our errors, and the next one is answered."""
    path = next(path for path in upstream.answers if "chat" in path)
    broken, upstream.answers[path] = upstream.answers[path], OLLAMA_HELLO if "api" in path else HELLO
    async with over(upstream) as engine:
        well = upstream.answers[path]
        upstream.answers[path] = broken
        with pytest.raises(kind, match=words):
            await run(engine, say())
        upstream.answers[path] = well
        assert (await run(engine, say())).text == "Hello"


async def test_a_silent_upstream_is_given_up() -> None:
    """A stream in which nothing more comes ends with an error once its time is up."""
    hold = asyncio.Event()
    upstream = openai_like("somebody")
    async with listening(upstream):
        patient = Link(upstream.url, stall=0.05)
        upstream.answers["/x"] = [b"data: 1\n", hold]
        with pytest.raises(EngineDied, match=r"said nothing for 0\.05 seconds"):
            async for _ in patient.lines("/x", {}):
                pass
        await patient.close()


async def test_an_endless_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that never ends does not fill the memory."""
    monkeypatch.setattr(link, "MAX_LINE", 1000)
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = [b"data: " + b"x" * 900, b"x" * 900]
        with pytest.raises(EngineDied, match="a line of more than 1000 bytes"):
            await run(engine, say())


NASTY = '\n\ndata: [DONE]\n\n\r\u2028\u2029\x85\0"\\\U0001f600\u00e9'


@pytest.mark.parametrize("size", [1, 3, 100000])
async def test_framing_survives_any_text_in_any_pieces(size: int) -> None:
    """Text that looks like framing is text, however the bytes are cut; spaces and comments are nothing."""
    body = b": ping\r\n\r\n" + b"".join(sse(chunk(NASTY), chunk(finish="stop"), USAGE))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = pieces
        assert (await run(engine, say())).text == NASTY
    body = b"  \n" + b" ".join(lines({"message": {"content": NASTY}}, {"done": True, "done_reason": "stop"}))
    other = ollama_like()
    async with over(other) as engine:
        other.answers["/api/chat"] = [body[start : start + size] for start in range(0, len(body), size)]
        assert (await run(engine, say())).text == NASTY


@pytest.mark.parametrize("bad", [b'"\\ud800x"', b'"\xff\xfex"'], ids=["half a surrogate", "no UTF-8"])
async def test_bad_characters_are_replaced(bad: bytes) -> None:
    """Half a character is no reason to lose an answer."""
    answer = [
        b'data: {"choices":[{"index":0,"delta":{"content":' + bad + b"}}]}\n\n",
        *sse(chunk(finish="stop")),
    ]
    async with over(openai_like("somebody", chat=answer)) as engine:
        text = (await run(engine, say())).text
    assert text.endswith("x")
    assert "\ufffd" in text
    text.encode()


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_leaving_closes_the_connection(dialect: str) -> None:
    """Closing the iterator in the middle of an answer reaches the upstream within a second."""
    hold = asyncio.Event()
    first = sse(chunk("a"), done=False) if dialect == "openai" else lines({"message": {"content": "a"}})
    upstream = openai_like("somebody") if dialect == "openai" else ollama_like()
    async with over(upstream) as engine:
        path = "/v1/chat/completions" if dialect == "openai" else "/api/chat"
        upstream.answers[path] = [*first, hold]
        events = stream(engine, say())
        while not isinstance(await anext(events), Delta):
            pass
        assert engine.stats().running == 1
        await events.aclose()
        await asyncio.wait_for(upstream.gone.wait(), 1)
        assert engine.stats().running == 0


async def test_leaving_before_the_first_byte_closes_the_connection() -> None:
    """So does cancelling a request of which nothing has come yet."""
    hold = asyncio.Event()
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        upstream.answers["/v1/chat/completions"] = [hold]
        upstream.arrived.clear()
        task = asyncio.create_task(run(engine, say()))
        await upstream.arrived.wait()
        task.cancel()
        await asyncio.wait_for(upstream.gone.wait(), 1)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_embeddings() -> None:
    """Vectors are ordered, cut and made unit length here; long inputs are cut where that is allowed."""

    def answer(asked: Asked) -> Any:
        if any(len(text) > 10 for text in asked.body["input"]):
            return 400, b'{"error":{"message":"x","n_prompt_tokens":40,"n_ctx":10}}'
        data = [
            {"index": index, "embedding": [3.0, 4.0, float(index)]}
            for index, _ in enumerate(asked.body["input"])
        ]
        return {"data": data[::-1], "usage": {"prompt_tokens": 9}}

    upstream = openai_like("somebody", **{"v1/embeddings": answer})
    async with over(upstream) as engine:
        assert "embedding" in engine.info.capabilities
        found = await engine.embed(Embedding(id="e", model="m", inputs=("a", "x" * 40), dimensions=2))
        assert found.vectors == ((0.6, 0.8), (0.6, 0.8))
        assert set(upstream.asked[0].body) == {"model", "input", "encoding_format"}
        with pytest.raises(ContextOverflow):
            await engine.embed(Embedding(id="e", model="m", inputs=("x" * 40,), truncate=False))
        upstream.answers["/v1/embeddings"] = {"data": [{"index": 0, "embedding": ["a"]}]}
        with pytest.raises(EngineDied, match="no vectors"):
            await engine.embed(Embedding(id="e", model="m", inputs=("a",)))
