"""What only a real model can show: meaning, limits of the context, sampling options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.engine

GREEDY = {"temperature": 0}


@pytest.fixture
def tiny(real: str) -> Iterator[httpx.Client]:
    """A plain HTTP client for the service over llama.cpp."""
    with httpx.Client(base_url=real, timeout=60) as client:
        yield client


def generate(client: httpx.Client, prompt: str, **more: Any) -> dict[str, Any]:
    """A greedy answer without thinking, as one object."""
    body = {"model": "tiny", "prompt": prompt, "stream": False, "think": False, "options": GREEDY} | more
    found: dict[str, Any] = client.post("/api/generate", json=body).raise_for_status().json()
    return found


def test_the_model_knows_what_it_was_taught(tiny: httpx.Client) -> None:
    """Template, stop token and tokeniser are right: the answer is."""
    assert "Tokyo" in generate(tiny, "What is the capital of Japan?")["response"]


def test_the_system_message_is_heard(tiny: httpx.Client) -> None:
    """`system` reaches the model through its template."""
    answer = generate(tiny, "Who are you?", system="You are Batman.")

    assert "Batman" in answer["response"]


def test_the_context_is_remembered(tiny: httpx.Client) -> None:
    """`context` of one answer, sent with the next prompt, is what was said before."""
    first = generate(tiny, "My name is Alice.")
    second = generate(tiny, "What is my name?", context=first["context"])

    assert "Alice" in second["response"]


def test_history_is_remembered(tiny: httpx.Client) -> None:
    """Earlier messages of a chat count."""
    messages = [
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Nice to meet you, Alice."},
        {"role": "user", "content": "What is my name?"},
    ]
    body = {"model": "tiny", "messages": messages, "stream": False, "think": False, "options": GREEDY}

    assert "Alice" in tiny.post("/api/chat", json=body).json()["message"]["content"]


def test_a_raw_prompt_is_not_templated(tiny: httpx.Client) -> None:
    """Markers written in a raw prompt are the model's own tokens."""
    prompt = "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\nprint(add(2, 3))\n<|fim_middle|>"

    assert generate(tiny, prompt, raw=True)["response"].strip() == "a + b"


def test_a_suffix_is_filled_up_to(tiny: httpx.Client) -> None:
    """`suffix` uses the model's own tokens for filling in the middle."""
    answer = generate(tiny, "def add(a, b):\n    return ", suffix="\n\nprint(add(2, 3))\n")

    assert answer["response"].strip() == "a + b"


def test_the_answer_ends_where_it_is_told(tiny: httpx.Client) -> None:
    """`num_predict` ends it with "length", a stop string with "stop" and is not part of it."""
    cut = generate(tiny, "Count to 12.", options=GREEDY | {"num_predict": 3})
    stopped = generate(tiny, "Count to 12.", options=GREEDY | {"stop": "7"})

    assert (cut["done_reason"], cut["eval_count"]) == ("length", 3)
    assert stopped["done_reason"] == "stop"
    assert "6" in stopped["response"]
    assert "7" not in stopped["response"]


def test_seeds_decide(tiny: httpx.Client) -> None:
    """With the same seed the same answer; among many seeds not always the same."""
    hot = {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "num_predict": 12}
    answers = [
        generate(tiny, "Tell me a story.", options=hot | {"seed": seed})["response"] for seed in (1, 1, 2, 3)
    ]

    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_overlong_prompt_is_refused_with_both_numbers(tiny: httpx.Client, stream: bool) -> None:
    """A single prompt or message that does not fit is a 400 that says how long and how much; nothing is cut."""
    words = "word " * 4000
    body = {
        "model": "tiny",
        "prompt": words,
        "messages": [{"role": "user", "content": words}],
        "stream": stream,
    }
    for route in ("generate", "chat"):
        refused = tiny.post(f"/api/{route}", json=body)
        assert refused.status_code == 400
        assert "2048" in refused.json()["error"]
        assert any(number.isdigit() and int(number) > 4000 for number in refused.json()["error"].split())


def test_the_oldest_messages_give_way(tiny: httpx.Client) -> None:
    """A long history is shortened from its old end, unless `truncate` is false."""
    old = [{"role": role, "content": "word " * 300} for role in ("user", "assistant") * 5]
    last = {"role": "user", "content": "What is the capital of France?"}
    body = {
        "model": "tiny",
        "messages": [*old, last],
        "stream": False,
        "think": False,
        "options": {"num_predict": 8},
    }
    shortened = tiny.post("/api/chat", json=body)
    refused = tiny.post("/api/chat", json=body | {"truncate": False})

    assert shortened.status_code == 200
    assert shortened.json()["prompt_eval_count"] < 2048
    assert refused.status_code == 400


def test_a_small_context_is_honoured(tiny: httpx.Client) -> None:
    """`num_ctx` below the service's is a limit for this request, and one above it is the service's."""
    body = {
        "model": "tiny",
        "prompt": "word " * 100,
        "stream": False,
        "options": {"num_ctx": 64, "num_predict": 4},
    }
    refused = tiny.post("/api/generate", json=body)

    assert refused.status_code == 400
    assert "64" in refused.json()["error"]
    assert generate(tiny, "Count to 3.", options=GREEDY | {"num_ctx": 10**9})["done"]


def test_log_probabilities_are_of_the_answer(tiny: httpx.Client) -> None:
    """The tokens put together are the answer, and the chosen one leads its alternatives when greedy."""
    answer = generate(tiny, "What is 7+8?", logprobs=True, top_logprobs=2)
    tokens = answer["logprobs"]

    assert bytes(byte for token in tokens for byte in token["bytes"]).decode() == answer["response"]
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens)
    assert all(token["logprob"] <= 0 for token in tokens)


def test_a_conversation_with_a_tool_ends_in_words(tiny: httpx.Client) -> None:
    """The call comes back whole; with the tool's answer in the history the model uses it."""
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    body = {"model": "tiny", "tools": [tool], "stream": False, "think": False, "options": GREEDY}
    called = tiny.post("/api/chat", json=body | {"messages": messages}).json()["message"]
    messages += [
        called,
        {"role": "tool", "tool_name": "get_weather", "content": '{"temperature": 21, "sky": "sunny"}'},
    ]
    answer = tiny.post("/api/chat", json=body | {"messages": messages}).json()["message"]

    assert called["content"] == ""
    assert called["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert answer["content"] == "It is 21 degrees and sunny in Paris."


def test_the_model_leaves_and_comes_back(tiny: httpx.Client) -> None:
    """A keep-alive of 0 gives the memory back; the next request answers as before."""
    assert tiny.post("/api/generate", json={"model": "tiny", "keep_alive": 0}).json()["done_reason"] == "unload"
    assert tiny.get("/api/ps").json() == {"models": []}
    answer = generate(tiny, "What is the capital of Japan?")

    assert "Tokyo" in answer["response"]
    assert answer["load_duration"] > 0
