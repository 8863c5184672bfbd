"""The official client against the service: every kind of call it has for these routes."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.openai.conftest import KEY, NASTY, Service

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(pydantic.BaseModel):
    """What structured output is parsed into."""

    name: str
    age: int


def say(text: str) -> list[ChatCompletionMessageParam]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


class TestChat:
    """`client.chat.completions`."""

    def test_create(self, client: openai.OpenAI) -> None:
        """An answer, its reason and its usage."""
        found = client.chat.completions.create(model="tiny", messages=say("capital"))
        assert found.choices[0].message.content == "The capital of Japan is Tokyo."
        assert found.choices[0].finish_reason == "stop"
        assert found.usage is not None
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        assert found.usage.prompt_tokens_details is not None
        assert found.id.startswith("chatcmpl-")

    def test_stream(self, client: openai.OpenAI) -> None:
        """Deltas add up, and the last chunk has the usage."""
        stream = client.chat.completions.create(
            model="tiny", messages=say("nasty"), stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == NASTY
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert len({chunk.id for chunk in chunks}) == 1

    def test_stream_helper(self, client: openai.OpenAI) -> None:
        """The client's own accumulation gives the whole answer, tool calls included."""
        with client.chat.completions.stream(model="tiny", messages=say("weather?"), tools=[WEATHER]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        assert "tool_calls.function.arguments.done" in kinds
        calls = final.choices[0].message.tool_calls
        assert calls is not None
        assert json.loads(calls[0].function.arguments) == {"city": "Rome"}

    def test_tools(self, client: openai.OpenAI) -> None:
        """A call comes back, and its result may be sent."""
        messages = say("weather?")
        found = client.chat.completions.create(model="tiny", messages=messages, tools=[WEATHER])
        assert found.choices[0].finish_reason == "tool_calls"
        assert found.choices[0].message.content is None
        calls = found.choices[0].message.tool_calls
        assert calls is not None
        call = calls[0]
        assert call.type == "function"
        answer: list[ChatCompletionMessageParam] = [
            *messages,
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        found = client.chat.completions.create(model="tiny", messages=answer, tools=[WEATHER])
        assert found.choices[0].message.content == "echo: sunny"

    def test_parse(self, client: openai.OpenAI, service: Service) -> None:
        """A Pydantic class goes out as a schema and comes back as an object."""
        found = client.chat.completions.parse(model="tiny", messages=say("who?"), response_format=Person)
        assert found.choices[0].message.parsed == Person(name="Li Hua", age=33)
        constraint = service.last().constraint
        assert constraint is not None
        assert constraint.kind == "json_schema"
        assert json.loads(constraint.value)["required"] == ["name", "age"]

    def test_logprobs(self, client: openai.OpenAI) -> None:
        """Each token has its probability and alternatives, streamed or not."""
        found = client.chat.completions.create(
            model="tiny", messages=say("capital"), logprobs=True, top_logprobs=2
        )
        logprobs = found.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert "".join(token.token for token in logprobs.content) == "The capital of Japan is Tokyo."
        assert [len(token.top_logprobs) for token in logprobs.content] == [2] * 6
        stream = client.chat.completions.create(
            model="tiny", messages=say("capital"), logprobs=True, top_logprobs=2, stream=True
        )
        tokens = [chunk.choices[0].logprobs.content for chunk in stream if chunk.choices[0].logprobs]
        assert [token for content in tokens for token in content or []] == logprobs.content

    def test_reasoning(self, client: openai.OpenAI, service: Service) -> None:
        """A thought stands beside the answer, under the names that other servers use."""
        found = client.chat.completions.create(model="tiny", messages=say("think"), reasoning_effort="low")
        message: Any = found.choices[0].message
        assert (message.content, message.reasoning_content, message.reasoning) == (
            "4",
            "two and two",
            "two and two",
        )
        prompt: Any = service.last().prompt
        assert prompt.think == "low"
        assert found.usage is not None
        assert found.usage.completion_tokens_details is not None
        assert found.usage.completion_tokens_details.reasoning_tokens == 3

    def test_choices(self, client: openai.OpenAI) -> None:
        """As many choices as asked, each with its index."""
        found = client.chat.completions.create(model="tiny", messages=say("capital"), n=3)
        assert [choice.index for choice in found.choices] == [0, 1, 2]

    def test_extras(self, client: openai.OpenAI, service: Service) -> None:
        """`extra_body` carries what OpenAI does not have."""
        extra = {"top_k": 3, "options": {"min_p": 0.1, "repeat_penalty_num": 9}}
        client.chat.completions.create(model="tiny", messages=say("x"), extra_body=extra)
        sampling = service.last().sampling
        assert (sampling.top_k, sampling.min_p, sampling.repeat_last_n) == (3, 0.1, 9)

    def test_raw_response(self, client: openai.OpenAI) -> None:
        """The raw response has a request id."""
        raw = client.chat.completions.with_raw_response.create(model="tiny", messages=say("capital"))
        assert raw.headers["x-request-id"]
        assert raw.parse()._request_id == raw.headers["x-request-id"]


class TestOthers:
    """`client.completions`, `client.embeddings`, `client.models`."""

    def test_completions(self, client: openai.OpenAI) -> None:
        """A prompt is continued, whole and streamed, with probabilities."""
        found = client.completions.create(model="tiny", prompt="hi", logprobs=1, echo=True)
        assert found.choices[0].text == "hiecho: hi"
        logprobs = found.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.text_offset == [0, 5]
        stream = client.completions.create(model="tiny", prompt="hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "echo: hi"

    def test_embeddings(self, client: openai.OpenAI) -> None:
        """The client asks for base64 by itself and decodes what numbers would have said."""
        found = client.embeddings.create(model="tiny", input=["a", "b"])
        plain = client.embeddings.create(model="tiny", input=["a", "b"], encoding_format="float")
        for one, other in zip(found.data, plain.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding)
        assert found.usage.prompt_tokens == 2
        tokens = client.embeddings.create(model="tiny", input=[[97], [98]])
        assert tokens.data[1].embedding == found.data[1].embedding
        assert len(client.embeddings.create(model="tiny", input="a", dimensions=4).data[0].embedding) == 4

    def test_models(self, client: openai.OpenAI) -> None:
        """Every listed model can be retrieved, slashes and colons included."""
        listed = list(client.models.list())
        assert "tiny" in [model.id for model in listed]
        for model in listed:
            assert client.models.retrieve(model.id) == model


class TestErrors:
    """The exception class follows the status; code and param are there."""

    @pytest.mark.parametrize(
        ("body", "kind", "param", "code"),
        [
            ({"model": "absent"}, openai.NotFoundError, "model", "model_not_found"),
            ({"temperature": 3}, openai.BadRequestError, "temperature", "decimal_above_max_value"),
            ({"messages": []}, openai.BadRequestError, "messages", "empty_array"),
            ({"messages": say("busy")}, openai.InternalServerError, None, "server_busy"),
            ({"messages": say("dies later")}, openai.InternalServerError, None, "engine_died"),
            ({"messages": say(" word" * 3000)}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ],
    )
    def test_statuses(
        self,
        client: openai.OpenAI,
        body: dict[str, Any],
        kind: type[openai.APIStatusError],
        param: str,
        code: str,
    ) -> None:
        """Each error is the exception that programs written for OpenAI expect."""
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**({"model": "tiny", "messages": say("x")} | body))
        assert (caught.value.param, caught.value.code) == (param, code)
        assert caught.value.request_id

    def test_wrong_key(self, client: openai.OpenAI) -> None:
        """A wrong key is an authentication error, also to clients that look for OpenAI's words."""
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided") as caught:
            client.with_options(api_key="sk-wrong").models.list()
        assert caught.value.code == "invalid_api_key"

    def test_stream_that_breaks(self, client: openai.OpenAI) -> None:
        """A stream that breaks raises after the deltas that came."""
        stream = client.chat.completions.create(model="tiny", messages=say("dies later"), stream=True)
        texts: list[str | None] = []
        with pytest.raises(openai.APIError, match="engine stopped") as caught:
            texts.extend(chunk.choices[0].delta.content for chunk in stream)
        assert texts == ["", "one", " two"]
        assert caught.value.code == "engine_died"


async def test_async_client(service: Service) -> None:
    """The asynchronous client works the same: many at once, streamed, closed early."""
    async with openai.AsyncOpenAI(base_url=service.url, api_key=KEY, max_retries=0, timeout=10) as client:
        found = await client.chat.completions.create(model="tiny", messages=say("capital"))
        assert found.choices[0].message.content == "The capital of Japan is Tokyo."
        stream = await client.chat.completions.create(model="tiny", messages=say("capital"), stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        assert text == "The capital of Japan is Tokyo."
        stream = await client.chat.completions.create(model="tiny", messages=say("capital"), stream=True)
        async for _ in stream:
            break
        await stream.close()
        assert "tiny" in [model.id async for model in client.models.list()]
