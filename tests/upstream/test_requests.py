"""What goes out: the exact keys, for each kind of upstream, and what is refused before anything goes."""

from __future__ import annotations

from typing import Any

import pytest

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import (
    Constraint,
    Embedding,
    Generation,
    Image,
    InfillPrompt,
    Message,
    Sampling,
    TextPrompt,
    TokenPrompt,
    ToolCall,
    ToolChoice,
)
from tests.upstream.ask import WEATHER, over, run, say
from tests.upstream.scripted import Scripted, chunk, lines, ollama_like, openai_like, sse

SAMPLERS = Sampling(
    temperature=0.5,
    top_k=7,
    top_p=0.8,
    min_p=0.1,
    typical_p=0.9,
    repeat_penalty=1.2,
    repeat_last_n=-1,
    presence_penalty=0.3,
    frequency_penalty=0.4,
    mirostat=2,
    seed=11,
)
STANDARD = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0.5,
    "top_p": 0.8,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.4,
    "seed": 11,
    "stop": ["x"],
    "max_tokens": 5,
    "logprobs": True,
    "top_logprobs": 2,
}
TEXT = sse({"choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}]})
GENERATED = lines(
    {"response": "ok", "done": False}, {"response": "", "done": True, "done_reason": "stop", "context": [1, 2]}
)


async def sent(upstream: Scripted, request: Generation, path: str = "/v1/chat/completions") -> dict[str, Any]:
    """The one body that a request becomes."""
    async with over(upstream) as engine:
        await run(engine, request)
    assert [one.path for one in upstream.asked] == [path]
    return upstream.asked[0].body


def everything(**more: Any) -> Generation:
    """A request with every sampler set."""
    return say(sampling=SAMPLERS, stop=("x",), max_tokens=5, logprobs=2, num_keep=9, **more)


async def test_an_unknown_server_gets_openais_keys_only() -> None:
    """Where nothing is known, nothing beyond the specification goes out, and defaults stay at home."""
    assert await sent(openai_like("somebody"), everything()) == STANDARD
    plain = await sent(openai_like("somebody"), say())
    assert set(plain) == {"model", "stream", "stream_options", "messages"}


async def test_llama_server_gets_its_own_names() -> None:
    """Every sampler it has, a window it accepts, and the count of the prompt asked for."""
    body = await sent(openai_like("llamacpp"), everything(think=True))
    assert body == STANDARD | {
        "top_k": 7,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.2,
        "repeat_last_n": 100,
        "mirostat": 2,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "return_progress": True,
        "chat_template_kwargs": {"enable_thinking": True},
    }


async def test_vllm_gets_its_own_names() -> None:
    """The samplers it has, several choices in one request, and no more."""
    answer = sse(
        {"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"} for index in (0, 1)]}
    )
    body = await sent(openai_like("vllm", chat=answer), everything(n=2, think="high", ignore_eos=True))
    assert body == STANDARD | {
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "n": 2,
        "ignore_eos": True,
        "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"},
    }


async def test_ollama_gets_its_own_options() -> None:
    """Its options and nothing else; truncation and shifting are told, the context's size never is."""
    body = await sent(ollama_like(), everything(think="low", context=50, shift=True), "/api/chat")
    assert body == {
        "model": "m:1b",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
        "truncate": False,
        "shift": True,
        "think": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "options": {
            "temperature": 0.5,
            "top_k": 7,
            "top_p": 0.8,
            "min_p": 0.1,
            "typical_p": 0.9,
            "repeat_penalty": 1.2,
            "repeat_last_n": 100,
            "presence_penalty": 0.3,
            "frequency_penalty": 0.4,
            "num_predict": 5,
            "num_keep": 9,
            "seed": 11,
            "stop": ["x"],
        },
    }


async def test_the_operators_context_is_the_same_every_time() -> None:
    """With a context set, Ollama is told that one with everything, so that it never loads the model again."""
    upstream = ollama_like(**{"api/embed": {"embeddings": [[1.0]]}})
    async with over(upstream, context=64) as engine:
        await run(engine, say(context=32))
        await engine.embed(Embedding(id="e", model="m", inputs=("a",)))
    assert [one.body["options"]["num_ctx"] for one in upstream.asked] == [64, 64]


async def test_messages_keep_what_they_carry() -> None:
    """Images, thoughts, calls and results arrive in each dialect's form; missing ids are made to match."""
    messages = (
        Message(role="user", content="look", images=(Image(media_type="image/png", data=b"\x89PNG"),)),
        Message(
            role="assistant",
            thinking="hm",
            tool_calls=(
                ToolCall(id="", name="a", arguments='{"x":1}'),
                ToolCall(id="k", name="b", arguments="{}"),
            ),
        ),
        Message(role="tool", content="B", tool_name="b"),
        Message(role="tool", content="A", tool_name="a"),
    )
    body = await sent(openai_like("vllm"), say(messages=messages))
    look, called, second, first = body["messages"]
    assert look["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw=="
    assert (called["reasoning_content"], called["content"]) == ("hm", None)
    made = called["tool_calls"][0]["id"]
    assert made
    assert [first["tool_call_id"], second["tool_call_id"]] == [made, "k"]
    body = await sent(ollama_like(), say(messages=messages), "/api/chat")
    assert body["messages"][0]["images"] == ["iVBORw=="]
    assert body["messages"][1]["thinking"] == "hm"
    assert body["messages"][1]["tool_calls"][0] == {"function": {"name": "a", "arguments": {"x": 1}}}
    assert body["messages"][2] == {"role": "tool", "content": "B", "tool_name": "b"}


@pytest.mark.parametrize(("mode", "name"), [("required", None), ("named", "get_weather")])
async def test_a_call_that_must_be_made(mode: Any, name: str | None) -> None:
    """Where an upstream can force a call it is told to; elsewhere the answer gets the shape of one."""
    request = say(tools=(WEATHER,), tool_choice=ToolChoice(mode=mode, name=name), parallel_tool_calls=False)
    body = await sent(openai_like("vllm"), request)
    expected = "required" if name is None else {"type": "function", "function": {"name": name}}
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (expected, False)
    shaped = sse(chunk('{"name":"get_weather","arguments":{"city":"Rome"}}', finish="stop"))
    async with over(openai_like("llamacpp", chat=shaped)) as engine:
        whole = await run(engine, request)
    assert [(call.name, call.arguments) for call in whole.calls] == [("get_weather", '{"city":"Rome"}')]
    assert (whole.text, whole.finishes[0].reason) == ("", "tool_calls")
    body = await sent(openai_like("llamacpp", chat=shaped), request)
    schema = body["response_format"]["json_schema"]["schema"]
    assert "tool_choice" not in body
    assert schema["$defs"]["call0"]["properties"]["name"] == {"const": "get_weather"}
    body = await sent(ollama_like(), request, "/api/chat")
    assert "tools" not in body
    assert body["format"] == schema
    assert "get_weather" in body["messages"][0]["content"]


async def test_no_tools_no_calls() -> None:
    """With a choice of none the tools stay at home."""
    request = say(tools=(WEATHER,), tool_choice=ToolChoice(mode="none"))
    assert "tools" not in await sent(openai_like("vllm"), request)
    assert "tools" not in await sent(ollama_like(), request, "/api/chat")


@pytest.mark.parametrize(
    ("constraint", "flavour", "expected"),
    [
        (Constraint(kind="json_object"), "vllm", {"response_format": {"type": "json_object"}}),
        (Constraint(kind="gbnf", value="root ::= x"), "llamacpp", {"grammar": "root ::= x"}),
        (
            Constraint(kind="gbnf", value="root ::= x"),
            "vllm",
            {"structured_outputs": {"grammar": "root ::= x"}},
        ),
        (Constraint(kind="regex", value="a+"), "vllm", {"structured_outputs": {"regex": "a+"}}),
    ],
)
async def test_shapes(constraint: Constraint, flavour: str, expected: dict[str, Any]) -> None:
    """The shape of an answer is said as each server wants to hear it."""
    body = await sent(openai_like(flavour), say(constraint=constraint))
    assert expected.items() <= body.items()


async def test_ollama_shapes() -> None:
    """Ollama has one field for both kinds."""
    body = await sent(ollama_like(), say(constraint=Constraint(kind="json_object")), "/api/chat")
    assert body["format"] == "json"
    schema = Constraint(kind="json_schema", value='{"type":"object"}')
    assert (await sent(ollama_like(), say(constraint=schema), "/api/chat"))["format"] == {"type": "object"}


@pytest.mark.parametrize(
    ("flavour", "limit"),
    [("llamacpp", -1), ("vllm", None), ("somebody", 100)],
    ids=["llamacpp", "vllm", "other"],
)
async def test_a_completion_without_a_limit_is_not_cut_at_sixteen(flavour: str, limit: int | None) -> None:
    """Without a limit the answer goes on until the context ends, whatever the route's own default."""
    upstream = openai_like(flavour, **{"v1/completions": TEXT})
    body = await sent(upstream, say(prompt=TextPrompt(text="a")), "/v1/completions")
    assert (body["prompt"], body["max_tokens"]) == ("a", limit)
    upstream = openai_like(flavour, **{"v1/completions": TEXT})
    body = await sent(upstream, say(prompt=TokenPrompt(tokens=(1, 2)), max_tokens=3), "/v1/completions")
    assert (body["prompt"], body["max_tokens"]) == ([1, 2], 3)


async def test_gaps() -> None:
    """A gap is filled by llama-server's own route, by Ollama's suffix, and by OpenAI's elsewhere."""
    request = say(prompt=InfillPrompt(prefix="a", suffix="b"), max_tokens=4)
    filled = sse(
        {"content": "+", "stop": False}, {"content": "", "stop": True, "stop_type": "limit"}, done=False
    )
    upstream = openai_like("llamacpp", infill=filled)
    async with over(upstream) as engine:
        whole = await run(engine, request)
    assert (whole.text, whole.finishes[0].reason) == ("+", "length")
    assert upstream.asked[0].body.items() >= {"input_prefix": "a", "input_suffix": "b", "n_predict": 4}.items()
    body = await sent(openai_like("somebody", **{"v1/completions": TEXT}), request, "/v1/completions")
    assert (body["prompt"], body["suffix"]) == ("a", "b")
    body = await sent(ollama_like(**{"api/generate": GENERATED}), request, "/api/generate")
    assert (body["prompt"], body["suffix"]) == ("a", "b")


async def test_ollamas_generate() -> None:
    """Raw prompts stay raw; a context goes out and comes back as it is."""
    body = await sent(
        ollama_like(**{"api/generate": GENERATED}), say(prompt=TextPrompt(text="a")), "/api/generate"
    )
    assert (body["prompt"], body["raw"]) == ("a", True)
    messages = (Message(role="system", content="S"), Message(role="user", content="U"))
    upstream = ollama_like(**{"api/generate": GENERATED})
    async with over(upstream) as engine:
        whole = await run(engine, say(messages=messages, prefix_tokens=(5, 6), want_context=True))
    assert whole.done is not None
    assert whole.done.context == (1, 2)
    body = upstream.asked[0].body
    assert (body["system"], body["prompt"], body["context"]) == ("S", "U", [5, 6])


async def test_a_template_goes_to_ollama() -> None:
    """It is Ollama's own field, with a prompt and with a suffix."""
    gap = InfillPrompt(prefix="a", suffix="b", template="{{ .Prompt }}")
    for request in (say(template="{{ .Prompt }}"), say(prompt=gap)):
        body = await sent(ollama_like(**{"api/generate": GENERATED}), request, "/api/generate")
        assert body["template"] == "{{ .Prompt }}"


async def test_a_context_over_openai_is_the_conversation() -> None:
    """What an answer's context remembers is said again before the next prompt; others' numbers are refused."""
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        first = await run(engine, say("I am Li.", want_context=True))
        assert first.done is not None
        second = await run(engine, say("Who am I?", want_context=True, prefix_tokens=first.done.context))
        assert second.done is not None
        assert second.done.context[: len(first.done.context)] == first.done.context
        with pytest.raises(BadRequest, match="context is not from"):
            await run(engine, say("x", prefix_tokens=(1, 99999)))
    assert [(one["role"], one["content"]) for one in upstream.asked[1].body["messages"]] == [
        ("user", "I am Li."),
        ("assistant", "Hello"),
        ("user", "Who am I?"),
    ]


REFUSED: list[tuple[str, Generation, str]] = [
    ("ollama", say(sampling=Sampling(logit_bias={1: 2.0})), "logit_bias"),
    ("ollama", say(ignore_eos=True), "ignore_eos"),
    ("ollama", say(constraint=Constraint(kind="gbnf", value="x")), "grammar"),
    ("ollama", say(prompt=TextPrompt(text="a"), prompt_logprobs=0), "echo"),
    ("somebody", say(ignore_eos=True), "ignore_eos"),
    ("somebody", say(template="{{ .Prompt }}"), "template"),
    ("llamacpp", say(prompt=InfillPrompt(prefix="a", suffix="b", template="{{ .Suffix }}")), "template"),
    ("somebody", say(constraint=Constraint(kind="gbnf", value="x")), "grammar"),
    ("somebody", say(continue_final=True), "continue_final_message"),
    ("vllm", say(prompt=InfillPrompt(prefix="a", suffix="b")), "suffix"),
    ("llamacpp", say(prompt=TextPrompt(text="a"), prompt_logprobs=0), "echo"),
]


@pytest.mark.parametrize(("flavour", "request_", "param"), REFUSED)
async def test_what_cannot_be_done_is_refused_by_name(flavour: str, request_: Generation, param: str) -> None:
    """Nothing is sent that would be ignored although the answer depends on it."""
    upstream = ollama_like() if flavour == "ollama" else openai_like(flavour)
    async with over(upstream) as engine:
        with pytest.raises(Unsupported) as caught:
            await run(engine, request_)
    assert caught.value.param == param
    assert upstream.asked == []


async def test_the_key_goes_with_every_request() -> None:
    """The upstream's key is in the header, and the service's own headers are not."""
    upstream = openai_like("somebody")
    async with over(upstream, key="sesame") as engine:
        await run(engine, say())
    assert upstream.asked[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in repr(vars(engine._link)["url"]) + engine.reason
