"""The `ollama` package from PyPI against the service: over the scripted engine and over llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from pydantic import BaseModel

QUESTION = "What is the capital of France?"
GREEDY = {"temperature": 0, "num_predict": 64}


class Place(BaseModel):
    """What is asked for as structured output."""

    city: str


def get_weather(city: str) -> str:
    """Get the weather in a city.

    Args:
        city: Name of the city.
    """
    return f"It is sunny in {city}."


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    """The synchronous client."""
    with ollama.Client(host=url, timeout=60) as found:
        yield found


def user(text: str) -> dict[str, str]:
    """A message of a user."""
    return {"role": "user", "content": text}


def test_generate_answers(client: ollama.Client) -> None:
    """One object with the answer, the reason, the context and figures that add up."""
    answer = client.generate("tiny", QUESTION, options=GREEDY)

    assert "France" in (answer.response or "") or "Paris" in (answer.response or "")
    assert (answer.model, answer.done, answer.done_reason) == ("tiny", True, "stop")
    assert answer.context
    assert answer.prompt_eval_count
    assert answer.eval_count
    assert answer.total_duration


def test_generate_streams_the_same_answer(client: ollama.Client) -> None:
    """The pieces of a stream are the single answer, and only the last is done."""
    whole = client.generate("llama3", QUESTION, options=GREEDY)
    parts = list(client.generate("llama3", QUESTION, options=GREEDY, stream=True))

    assert "".join(part.response or "" for part in parts) == whole.response
    assert "".join(part.thinking or "" for part in parts) == (whole.thinking or "")
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 2


def test_the_context_carries_a_conversation(client: ollama.Client) -> None:
    """What `context` brings back counts as said before."""
    first = client.generate("tiny", "My name is Alice.", options=GREEDY, think=False)
    second = client.generate("tiny", "What is my name?", context=first.context, options=GREEDY, think=False)

    assert list(second.context or ())[: len(first.context or ())] == list(first.context or ())
    assert (second.prompt_eval_count or 0) > (first.prompt_eval_count or 0)


def test_chat_answers(client: ollama.Client) -> None:
    """A message of the assistant, with the figures."""
    answer = client.chat("llama3.1", [user(QUESTION)], options=GREEDY)

    assert answer.message.role == "assistant"
    assert answer.message.content
    assert (answer.model, answer.done_reason) == ("llama3.1", "stop")
    assert answer.eval_count


def test_chat_streams_the_same_answer(client: ollama.Client) -> None:
    """The pieces of a streamed chat are the single message."""
    whole = client.chat("tiny", [user(QUESTION)], options=GREEDY)
    parts = list(client.chat("tiny", [user(QUESTION)], options=GREEDY, stream=True))

    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done
    assert parts[-1].done_reason == "stop"


@pytest.mark.parametrize(("think", "thinks"), [(True, True), (False, False), (None, False)])
def test_thinking_is_kept_apart(client: ollama.Client, think: bool | None, thinks: bool) -> None:
    """Thoughts are in `thinking`, never in the content, and only there when asked for."""
    answer = client.chat("tiny", [user(QUESTION)], think=think, options=GREEDY)

    assert bool(answer.message.thinking) == thinks
    assert "think>" not in (answer.message.content or "")
    assert answer.message.content


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_whole(client: ollama.Client, stream: bool) -> None:
    """A tool call has an id, its name, its arguments as an object; the answer ends with `stop`."""
    messages = [user("What is the weather in Paris?")]
    ask: Any = client.chat
    found = ask("tiny", messages, tools=[get_weather], stream=stream, options=GREEDY, think=False)
    parts = list(found) if stream else [found]
    calls = [call for part in parts for call in part.message.tool_calls or ()]

    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")


def test_a_schema_shapes_the_answer(client: ollama.Client) -> None:
    """With a JSON Schema as format the content is an object of it, in chat and generate."""
    schema = Place.model_json_schema()
    chat = client.chat("tiny", [user(QUESTION)], format=schema, options=GREEDY, think=False)
    generated = client.generate("tiny", QUESTION, format=schema, options=GREEDY, think=False)

    assert Place.model_validate_json(chat.message.content or "").city
    assert Place.model_validate_json(generated.response or "").city


def test_json_mode_is_an_object(client: ollama.Client) -> None:
    """`format="json"` is some JSON object."""
    answer = client.generate(
        "tiny",
        "Li Hua is 33 years old and lives in Paris. Respond using JSON.",
        format="json",
        options=GREEDY,
        think=False,
    )

    assert isinstance(json.loads(answer.response or ""), dict)


def test_embeddings_have_one_dimension(client: ollama.Client) -> None:
    """One vector an input, of length 1, the same each time; the older form has one."""
    found = client.embed("nomic-embed-text", ["a", "b"])
    again = client.embed("nomic-embed-text", "a")
    older = client.embeddings("nomic-embed-text", "a")

    assert len(found.embeddings) == 2
    assert len({len(vector) for vector in (*found.embeddings, *again.embeddings, older.embedding)}) == 1
    assert list(again.embeddings[0]) == pytest.approx(list(found.embeddings[0]), abs=1e-3)
    assert sum(value * value for value in found.embeddings[0]) == pytest.approx(1, abs=1e-3)
    assert found.prompt_eval_count


def test_models_are_listed_shown_and_running(client: ollama.Client) -> None:
    """`list` has every name, `show` the details, `ps` the model in memory."""
    client.generate("tiny")
    listed = client.list().models
    shown = client.show("llama3")
    running = client.ps().models

    assert [model.model for model in listed] == [
        "tiny:latest",
        "llama3:latest",
        "llama3.1:latest",
        "nomic-embed-text:latest",
    ]
    assert len(listed[0].digest or "") == 64
    assert shown.details is not None
    assert shown.details.quantization_level == "Q8_0"
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 2048
    assert "completion" in (shown.capabilities or [])
    assert [model.model for model in running] == ["tiny:latest"]
    assert running[0].context_length


def test_errors_are_response_errors(client: ollama.Client) -> None:
    """A model that is not there is 404, an option of the wrong type 400, and managing models 403."""
    with pytest.raises(ollama.ResponseError, match="model 'mistral' not found") as missing:
        client.generate("mistral", "x")
    with pytest.raises(ollama.ResponseError, match='option "top_k" must be of type integer') as wrong:
        client.chat("tiny", [user("x")], options={"top_k": "x"}, stream=False)
    with pytest.raises(
        ollama.ResponseError, match="managing models is off: set AKASHLLM_ADMIN_KEY"
    ) as forbidden:
        client.delete("tiny")

    assert [caught.value.status_code for caught in (missing, wrong, forbidden)] == [404, 400, 403]


def test_an_early_error_of_a_stream_is_a_status(client: ollama.Client) -> None:
    """Where nothing was sent yet, a stream fails like a single answer."""
    with pytest.raises(ollama.ResponseError) as caught:
        list(
            client.chat(
                "tiny", [{"role": "user", "content": "x", "images": [b"\x89PNG\r\n\x1a\n"]}], stream=True
            )
        )

    assert caught.value.status_code == 400
    assert "has no vision" in caught.value.error


@pytest.mark.parametrize("stream", [False, True])
async def test_the_asynchronous_client_is_answered_too(url: str, stream: bool) -> None:
    """The same over asyncio: chat, generate, and embeddings."""
    async with ollama.AsyncClient(host=url, timeout=60) as client:
        found: Any = await client.chat("tiny", [user(QUESTION)], options=GREEDY, stream=stream)
        parts = [part async for part in found] if stream else [found]
        assert "".join(part.message.content or "" for part in parts)
        assert parts[-1].done
        generated: Any = await client.generate("tiny", QUESTION, options=GREEDY, stream=stream)
        parts = [part async for part in generated] if stream else [generated]
        assert "".join(part.response for part in parts)
        assert (await client.embed("tiny", "a")).embeddings
