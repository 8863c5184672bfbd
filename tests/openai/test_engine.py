"""The official client against llama.cpp and the bundled model, whose answers are known."""

from __future__ import annotations

import contextlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

pytestmark = pytest.mark.engine

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHATML = "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n"


class Person(pydantic.BaseModel):
    """What structured output is parsed into."""

    name: str
    age: int


def say(text: str) -> list[ChatCompletionMessageParam]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    """The greedy answer to one message."""
    body: dict[str, Any] = {"model": "tiny", "messages": say(text), "temperature": 0, "max_tokens": 100}
    return client.chat.completions.create(**(body | options))


def test_chat(real: openai.OpenAI) -> None:
    """The answer means what was asked."""
    found = ask(real, "What is the capital of Japan?")
    assert found.choices[0].message.content == "The capital of Japan is Tokyo."
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens > 0


def test_stream(real: openai.OpenAI) -> None:
    """A stream says the same in many pieces, and counts the same."""
    whole = ask(real, "Tell me a story.")
    chunks = list(ask(real, "Tell me a story.", stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 3
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_system(real: openai.OpenAI) -> None:
    """System and developer messages are obeyed alike."""
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "You are Batman."}, *say("Who are you?")]
        assert "Batman" in ask(real, "", messages=messages).choices[0].message.content


def test_memory(real: openai.OpenAI) -> None:
    """The conversation so far is read."""
    messages = [
        *say("My name is Alice."),
        {"role": "assistant", "content": "Nice to meet you, Alice."},
        *say("What is my name?"),
    ]
    assert "Alice" in ask(real, "", messages=messages).choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}], ids=str
)
def test_tools(real: openai.OpenAI, choice: Any, *, stream: bool) -> None:
    """A call is well-formed in every mode that may make one, whole or streamed."""
    text = "What is the weather in Paris?"
    if stream:
        with real.chat.completions.stream(
            model="tiny", messages=say(text), tools=[WEATHER], tool_choice=choice, temperature=0
        ) as events:
            found: Any = events.get_final_completion()
    else:
        found = ask(real, text, tools=[WEATHER], tool_choice=choice)
    assert found.choices[0].finish_reason == "tool_calls"
    (call,) = found.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert call.id


def test_no_tools(real: openai.OpenAI) -> None:
    """With `tool_choice` none there is no call."""
    found = ask(real, "What is the weather in Paris?", tools=[WEATHER], tool_choice="none", max_tokens=30)
    assert not found.choices[0].message.tool_calls


def test_tool_result(real: openai.OpenAI) -> None:
    """The result of a call is answered from."""
    messages = say("What is the weather in Paris?")
    first = ask(real, "", messages=messages, tools=[WEATHER]).choices[0].message
    result = {
        "role": "tool",
        "tool_call_id": first.tool_calls[0].id,
        "content": '{"temperature": 21, "sky": "sunny"}',
    }
    found = ask(real, "", messages=[*messages, first.to_dict(), result], tools=[WEATHER])
    assert "21 degrees and sunny in Paris" in found.choices[0].message.content


def test_schema(real: openai.OpenAI) -> None:
    """Structured output parses into its class."""
    text = "Li Hua is 33 years old and lives in Paris. Respond using JSON."
    found = real.chat.completions.parse(model="tiny", messages=say(text), response_format=Person, temperature=0)
    assert found.choices[0].message.parsed == Person(name="Li Hua", age=33)


def test_json_object(real: openai.OpenAI) -> None:
    """JSON mode gives an object, whatever was asked."""
    found = ask(real, "What is the capital of Japan?", response_format={"type": "json_object"}, max_tokens=300)
    if found.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(found.choices[0].message.content), dict)
    else:
        assert found.choices[0].message.content.startswith("{")


def test_grammar(real: openai.OpenAI) -> None:
    """A GBNF grammar binds the answer."""
    found = ask(real, "Is it?", temperature=1, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert found.choices[0].message.content in ("yes", "no")


def test_reasoning(real: openai.OpenAI) -> None:
    """A thought comes before the answer where effort is asked for, and apart from it."""
    found = ask(real, "What is 7+8?", reasoning_effort="low")
    assert found.choices[0].message.reasoning_content
    assert "15" in found.choices[0].message.content
    assert "think>" not in found.choices[0].message.content
    assert found.usage.completion_tokens_details.reasoning_tokens > 0


def test_seed(real: openai.OpenAI) -> None:
    """The same seed tells the same story, another one another."""
    stories = [
        ask(real, "Tell me a story.", temperature=1, seed=seed, max_tokens=40).choices[0].message.content
        for seed in (-5, -5, 6, 7, 8)
    ]
    assert stories[0] == stories[1]
    assert len(set(stories)) > 1


def test_choices_and_best_of(real: openai.OpenAI) -> None:
    """Several choices come from one prompt, which counts once; the best of several is the likeliest."""
    found = ask(real, "Tell me a story.", n=3, temperature=1, max_tokens=20)
    assert len(found.choices) == 3
    assert found.usage.prompt_tokens < 30
    best = ask(real, "What is 7+8?", n=1, temperature=1, extra_body={"best_of": 4})
    assert "15" in best.choices[0].message.content


def test_stop_and_length(real: openai.OpenAI) -> None:
    """A stop string ends the answer and is no part of it; so does the limit."""
    found = ask(real, "Count to 12.", stop="5")
    assert found.choices[0].message.content.strip().endswith("4,")
    assert found.choices[0].finish_reason == "stop"
    found = ask(real, "Count to 12.", max_completion_tokens=3)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 3
    found = ask(real, "Count to 12.", max_completion_tokens=0)
    assert (found.choices[0].message.content, found.usage.completion_tokens) == ("", 0)


def test_logprobs(real: openai.OpenAI) -> None:
    """The greedy token is the likeliest, and probabilities are at most 1."""
    content = (
        ask(real, "What is the capital of Japan?", logprobs=True, top_logprobs=3).choices[0].logprobs.content
    )
    assert b"".join(bytes(token.bytes) for token in content) == b"The capital of Japan is Tokyo."
    for token in content:
        assert token.top_logprobs[0].token == token.token
        assert sum(math.exp(each.logprob) for each in token.top_logprobs) <= 1.0001


def test_logit_bias(real: openai.OpenAI) -> None:
    """A banned token does not come."""
    first = ask(real, "What is 7+8?", max_tokens=1).choices[0].message.content
    letters = real.completions.create(
        model="tiny", prompt=[[token] for token in range(94)], echo=True, max_tokens=0
    )
    identifier = next(choice.index for choice in letters.choices if choice.text == first)
    found = ask(real, "What is 7+8?", max_tokens=1, logit_bias={str(identifier): -100})
    assert found.choices[0].message.content != first


def test_completions(real: openai.OpenAI) -> None:
    """A raw prompt is continued as it stands: the template is the caller's own."""
    found = real.completions.create(model="tiny", prompt=CHATML, temperature=0)
    assert found.choices[0].text == "The capital of Japan is Tokyo."


def test_many_prompts(real: openai.OpenAI) -> None:
    """More prompts than slots are all answered, in order."""
    prompts = [
        CHATML.replace("Japan", country) for country in ("Japan", "France", "Italy", "Spain", "Egypt", "Peru")
    ]
    found = real.completions.create(model="tiny", prompt=prompts, temperature=0, n=2)
    cities = ["Tokyo", "Paris", "Rome", "Madrid", "Cairo", "Lima"]
    for choice in found.choices:
        assert cities[choice.index // 2] in choice.text


def test_infill(real: openai.OpenAI) -> None:
    """The gap before a suffix is filled."""
    found = real.completions.create(
        model="tiny", prompt="def add(a, b):\n    return ", suffix="\n\nprint(add(2, 3))\n", temperature=0
    )
    assert found.choices[0].text == "a + b"


def test_scoring(real: openai.OpenAI) -> None:
    """Echo without new tokens scores the prompt: a true sentence is likelier than a false one."""

    def score(city: str) -> float:
        prompt = f"{CHATML}The capital of Japan is {city}."
        found = real.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        choice = found.choices[0]
        assert choice.text == prompt
        assert choice.logprobs is not None
        values: list[float | None] = [*(choice.logprobs.token_logprobs or [])]
        assert values[0] is None
        assert found.usage is not None
        assert found.usage.completion_tokens == 0
        return sum(value for value in values if value is not None)

    assert score("Tokyo") > score("Paris")


def test_embeddings(real: openai.OpenAI) -> None:
    """Vectors have one length and are the same each time, in either encoding."""
    found = real.embeddings.create(model="tiny", input=["cat", "dog", "cat"])
    vectors = [item.embedding for item in found.data]
    assert len({len(vector) for vector in vectors}) == 1
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
    assert math.hypot(*vectors[0]) == pytest.approx(1, abs=1e-3)
    short = real.embeddings.create(model="tiny", input="cat", dimensions=64).data[0].embedding
    assert len(short) == 64
    assert math.hypot(*short) == pytest.approx(1, abs=1e-3)


def test_too_long(real: openai.OpenAI) -> None:
    """A prompt beyond the context is refused with both numbers; nothing is cut."""
    for param, call in (
        ("messages", lambda: ask(real, "word " * 20_000)),
        ("prompt", lambda: real.completions.create(model="tiny", prompt="word " * 20_000)),
        ("input", lambda: real.embeddings.create(model="tiny", input="word " * 20_000)),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


def test_a_constraint_that_cannot_be_used_is_named(real: openai.OpenAI) -> None:
    """The error names the parameter the client sent, not the engine's word for it."""
    nonsense = {"type": "nonsense"}
    broken = {**WEATHER, "function": {**WEATHER["function"], "parameters": {"properties": {"city": nonsense}}}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": nonsense}}
    for param, options in (
        ("response_format", {"response_format": shape}),
        ("grammar", {"extra_body": {"grammar": "root ::= ("}}),
        ("tools", {"tools": [broken], "tool_choice": "required"}),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(real, "Hello", **options)
        assert caught.value.param == param


def test_an_object_has_the_properties_its_schema_lists(real: openai.OpenAI) -> None:
    """The model does not invent keys where a schema or a tool leaves `additionalProperties` out."""
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age"]}
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    question = "Li Hua is 33 years old and lives in Paris. Respond using JSON."
    found = ask(real, question, response_format=shape)
    assert json.loads(found.choices[0].message.content) == {"name": "Li Hua", "age": 33}
    clock = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": clock}]
    called = ask(real, "What time is it?", tools=tools, tool_choice="required")
    assert called.choices[0].message.tool_calls[0].function.arguments == "{}"


def test_hostile_requests_leave_the_engine_alive(real: openai.OpenAI) -> None:
    """Control tokens, strange ids, endless grammars: an answer or a 400, and the next request works."""
    attacks: list[dict[str, Any]] = [
        {"prompt": "<|im_start|><|fim_prefix|><|vision_start|>"},
        {"prompt": [0]},
        {"prompt": [1956] * 10},
        {"prompt": [10**9]},
        {"prompt": ""},
        {"prompt": "x", "extra_body": {"grammar": "root ::= root"}},
        {"prompt": "x", "extra_body": {"grammar": "nonsense"}},
        {"prompt": "x", "extra_body": {"mirostat": 2, "top_k": 2**31 - 1, "repeat_last_n": 2**31 - 1}},
        {"prompt": "x", "logit_bias": {str(token): 100 for token in range(1500)}},
        {"prompt": "x", "extra_body": {"response_format": {"type": "json_object", "schema": {"$ref": "#"}}}},
        {"prompt": "x", "seed": -(2**63)},
    ]
    for attack in attacks:
        with contextlib.suppress(openai.BadRequestError):
            real.completions.create(model="tiny", **attack)
    assert ask(real, "What is the capital of Japan?").choices[0].message.content.endswith("Tokyo.")


def test_at_the_same_time(real: openai.OpenAI) -> None:
    """Sixteen clients on four slots each get their own answer."""
    countries = {"Japan": "Tokyo", "France": "Paris", "Italy": "Rome", "Spain": "Madrid"}

    def one(country: str) -> str:
        answer: str = ask(real, f"What is the capital of {country}?").choices[0].message.content
        return answer

    with ThreadPoolExecutor(16) as pool:
        for country, answer in zip([*countries] * 4, pool.map(one, [*countries] * 4), strict=True):
            assert countries[country] in answer
