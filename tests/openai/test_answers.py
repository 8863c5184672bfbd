"""What events become: whole answers and streams, byte for byte where it matters."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from akashllm.errors import BadRequest, Busy, ContextOverflow, EngineDied, ServiceError, Unauthorized
from akashllm.server.domain import (
    Alternative,
    Delta,
    Done,
    Embeddings,
    Event,
    Finish,
    ModelInfo,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)
from akashllm.server.wire.openai import (
    ChatCall,
    ChatStream,
    Collected,
    CompletionCall,
    CompletionStream,
    chat_answer,
    completion_answer,
    embedding_answer,
    error_body,
    error_event,
    models_answer,
    read_chat,
    read_completion,
    read_embedding,
)
from akashllm.server.wire.openai.encoding import FINGERPRINT

INFO = ModelInfo(name="tiny:latest", vocab_size=2000, capabilities=("completion", "tools", "insert"))
CALL = ToolCall(id="call_1", name="get_weather", arguments='{"city":"Rome"}')
NASTY = 'a\n\ndata: [DONE]\n\n\r\u2028\u2029\x85\0"\\\U0001f600é'


def chat_call(**body: Any) -> ChatCall:
    """A chat request with fixed id and time."""
    messages = [{"role": "user", "content": "hi"}]
    call = read_chat({"messages": messages} | body, name="tiny", model="tiny:latest", info=INFO)
    return msgspec.structs.replace(call, id="chatcmpl-1", created=5)


def completion_call(**body: Any) -> CompletionCall:
    """A completion request with fixed id and time."""
    call = read_completion({"prompt": "hi"} | body, name="tiny", model="tiny:latest", info=INFO)
    return msgspec.structs.replace(call, id="cmpl-1", created=5)


def done(completion: int = 2) -> Done:
    """The last event."""
    return Done(usage=Usage(prompt_tokens=9, completion_tokens=completion, cached_tokens=4))


def started(prompt: tuple[TokenLogprob, ...] = ()) -> Started:
    """The first event."""
    return Started(prompt_tokens=9, cached_tokens=4, prompt=prompt)


def token(data: bytes, logprob: float = -0.5, top: tuple[Alternative, ...] = ()) -> TokenLogprob:
    """A token with its log probability."""
    return TokenLogprob(token=1, data=data, logprob=logprob, top=top)


def answer(call: ChatCall, *events: Event) -> dict[str, Any]:
    """The whole chat answer, checked by the official client's strict types."""
    collected = Collected(1, call.generations[0].n)
    for event in events:
        collected.feed(event)
    body = chat_answer(call, collected)
    ChatCompletion.model_validate_json(body, strict=True)
    result: dict[str, Any] = json.loads(body)
    return result


def text_answer(call: CompletionCall, texts: list[str], *events: tuple[int, Event]) -> dict[str, Any]:
    """The whole text completion."""
    collected = Collected(len(call.generations), call.generations[0].n)
    for generation, event in events:
        collected.feed(event, generation)
    result: dict[str, Any] = json.loads(completion_answer(call, collected, texts))
    return result


def frames(stream: ChatStream | CompletionStream, *events: Event | tuple[int, Event]) -> list[Any]:
    """The data of each server-sent event; the end mark as a string."""
    raw = b""
    for event in events:
        generation, inner = event if isinstance(event, tuple) else (0, event)
        raw += stream.feed(inner, generation)
    raw += stream.end()
    blocks = raw.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    datas = [block.removeprefix("data: ") for block in blocks]
    assert datas.pop() == "[DONE]"
    return [json.loads(data) for data in datas]


class TestChatAnswer:
    """`chat.completion` objects."""

    def test_golden(self) -> None:
        """The whole object has every field of the specification, in its order."""
        found = answer(
            chat_call(), started(), Delta(text="Hel", tokens=1), Delta(text="lo", tokens=1), Finish(), done()
        )
        assert json.dumps(found) == json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 5,
                "model": "tiny",
                "system_fingerprint": FINGERPRINT,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Hello", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 2,
                    "total_tokens": 11,
                    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
                    "completion_tokens_details": {
                        "reasoning_tokens": 0,
                        "audio_tokens": 0,
                        "accepted_prediction_tokens": 0,
                        "rejected_prediction_tokens": 0,
                    },
                },
            }
        )

    def test_tool_calls(self) -> None:
        """A call comes with null content and its own finish reason."""
        tools = [{"type": "function", "function": {"name": "get_weather"}}]
        found = answer(
            chat_call(tools=tools), started(), Delta(tool_calls=(CALL,)), Finish(reason="tool_calls"), done()
        )
        choice = found["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'},
                }
            ],
        }

    def test_older_calls(self) -> None:
        """A client that sent `functions` reads `function_call`."""
        call = chat_call(functions=[{"name": "get_weather"}])
        choice = answer(call, started(), Delta(tool_calls=(CALL,)), Finish(reason="tool_calls"), done())[
            "choices"
        ][0]
        assert choice["finish_reason"] == "function_call"
        assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city":"Rome"}'}
        assert "tool_calls" not in choice["message"]

    def test_thinking(self) -> None:
        """A thought has both of the names that clients look for, and its tokens are counted."""
        found = answer(
            chat_call(), started(), Delta(thinking="hm", tokens=3), Delta(text="4", tokens=1), Finish(), done(4)
        )
        message = found["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"], message["reasoning"]) == ("4", "hm", "hm")
        assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3

    def test_best_of(self) -> None:
        """The likeliest choices by log probability a token are returned, best first; all are counted."""
        call = chat_call(n=2, best_of=3)
        found = answer(
            call,
            started(),
            Delta(index=0, text="long", tokens=10),
            Delta(index=1, text="bad", tokens=1),
            Delta(index=2, text="good", tokens=1),
            Finish(index=0, score=-5.0),
            Finish(index=1, score=-4.0),
            Finish(index=2, score=-0.1),
            done(12),
        )
        assert [(each["index"], each["message"]["content"]) for each in found["choices"]] == [
            (0, "good"),
            (1, "long"),
        ]
        assert found["usage"]["completion_tokens"] == 12

    def test_logprobs(self) -> None:
        """Each token has text, bytes, log probability and alternatives; minus infinity is a number."""
        call = chat_call(logprobs=True, top_logprobs=1)
        half = token("é".encode()[:1], top=(Alternative(token=2, data=b"x", logprob=float("-inf")),))
        found = answer(
            call, started(), Delta(text="é", tokens=2, logprobs=(half, token(b"!"))), Finish(), done()
        )
        assert found["choices"][0]["logprobs"] == {
            "content": [
                {
                    "token": "\ufffd",
                    "logprob": -0.5,
                    "bytes": [195],
                    "top_logprobs": [{"token": "x", "logprob": -9999.0, "bytes": [120]}],
                },
                {"token": "!", "logprob": -0.5, "bytes": [33], "top_logprobs": []},
            ],
            "refusal": None,
        }

    def test_length(self) -> None:
        """An answer that was cut says so, also when it had made a call."""
        found = answer(chat_call(), started(), Delta(tool_calls=(CALL,)), Finish(reason="length"), done())
        assert found["choices"][0]["finish_reason"] == "length"


class TestChatStream:
    """`chat.completion.chunk` objects."""

    def test_golden(self) -> None:
        """The bytes of a plain stream: role, deltas, finish, end."""
        stream = ChatStream(chat_call(stream=True))
        events = (
            started(),
            Delta(text="Hel", tokens=1),
            Delta(tokens=1),
            Delta(text="lo", tokens=1),
            Finish(),
            done(),
        )
        raw = b"".join(stream.feed(event) for event in events) + stream.end()
        head = (
            '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"tiny",'
            f'"system_fingerprint":"{FINGERPRINT}","choices":[{{"index":0,"delta":'
        )
        opened = ',"logprobs":null,"finish_reason":null}]}\n\n'
        assert raw.decode() == (
            f'data: {head}{{"role":"assistant","content":"","refusal":null}}{opened}'
            f'data: {head}{{"content":"Hel"}}{opened}'
            f'data: {head}{{"content":"lo"}}{opened}'
            f'data: {head}{{}},"logprobs":null,"finish_reason":"stop"}}]}}\n\n'
            "data: [DONE]\n\n"
        )

    def test_usage(self) -> None:
        """With `include_usage` the last chunk has usage and no choices, and the others a null."""
        call = chat_call(stream=True, stream_options={"include_usage": True})
        found = frames(ChatStream(call), started(), Delta(text="a", tokens=1), Finish(), done())
        assert [each["usage"] for each in found[:-1]] == [None] * 3
        assert found[-1]["choices"] == []
        assert found[-1]["usage"]["total_tokens"] == 11

    def test_tool_calls(self) -> None:
        """Calls are whole deltas, numbered within their choice."""
        second = ToolCall(id="call_2", name="get_time", arguments="{}")
        found = frames(
            ChatStream(chat_call(stream=True)),
            started(),
            Delta(tool_calls=(CALL,)),
            Delta(tool_calls=(second,)),
            Finish(reason="tool_calls"),
            done(),
        )
        calls = [each["choices"][0]["delta"]["tool_calls"][0] for each in found[1:3]]
        assert [(each["index"], each["id"], each["type"]) for each in calls] == [
            (0, "call_1", "function"),
            (1, "call_2", "function"),
        ]
        assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Rome"}
        assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"

    def test_choices_keep_their_index(self) -> None:
        """Several choices each get a role, their own deltas and a finish."""
        found = frames(
            ChatStream(chat_call(stream=True, n=2)),
            started(),
            Delta(index=1, text="b"),
            Delta(index=0, text="a"),
            Finish(index=0, reason="length"),
            Finish(index=1),
            done(),
        )
        seen = [(each["choices"][0]["index"], each["choices"][0]["delta"].get("content")) for each in found]
        assert seen == [(0, ""), (1, ""), (1, "b"), (0, "a"), (0, None), (1, None)]
        assert [each["choices"][0]["finish_reason"] for each in found[-2:]] == ["length", "stop"]

    def test_thought_and_text_are_two_chunks(self) -> None:
        """A delta with a thought and text becomes a chunk of each."""
        found = frames(
            ChatStream(chat_call(stream=True)),
            started(),
            Delta(thinking="hm", text="4", tokens=2),
            Finish(),
            done(),
        )
        deltas = [each["choices"][0]["delta"] for each in found]
        assert deltas[1:3] == [{"reasoning_content": "hm", "reasoning": "hm"}, {"content": "4"}]

    def test_logprobs_are_never_lost(self) -> None:
        """Tokens held back, which have no text yet, still bring their log probabilities."""
        found = frames(
            ChatStream(chat_call(stream=True, logprobs=True)),
            started(),
            Delta(tokens=1, logprobs=(token(b"\xc3"),)),
            Delta(text="é", tokens=1, logprobs=(token(b"\xa9"),)),
            Finish(),
            done(),
        )
        content = [each["choices"][0]["logprobs"] for each in found]
        assert [each["content"][0]["bytes"] for each in content if each] == [[0xC3], [0xA9]]

    def test_every_chunk_is_what_the_client_expects(self) -> None:
        """The official client's own types accept each chunk, strictly."""
        call = chat_call(stream=True, logprobs=True, stream_options={"include_usage": True})
        events = (
            started(),
            Delta(text="a", tokens=1, logprobs=(token(b"a"),)),
            Delta(thinking="b", tool_calls=(CALL,)),
            Finish(),
            done(),
        )
        for chunk in frames(ChatStream(call), *events):
            ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)

    @pytest.mark.parametrize("text", [NASTY, "x" * 100_000, "[DONE]", "\n\n", "é" * 3])
    def test_framing_survives_any_text(self, text: str) -> None:
        """Text that looks like framing stays text, also for readers that split at every Unicode line break."""
        stream = ChatStream(chat_call(stream=True))
        raw = stream.feed(Delta(text=text, tokens=1)).decode()
        assert raw.splitlines() == [raw.removesuffix("\n\n"), ""]
        chunk = json.loads(raw.removeprefix("data: "))
        assert chunk["choices"][0]["delta"]["content"] == text


class TestCompletionAnswer:
    """`text_completion` objects."""

    def test_golden(self) -> None:
        """The whole object has every field of the specification."""
        found = text_answer(
            completion_call(),
            [],
            (0, started()),
            (0, Delta(text=" there", tokens=1)),
            (0, Finish(reason="length")),
            (0, done(1)),
        )
        Completion.model_validate(found)
        assert found["object"] == "text_completion"
        assert found["choices"] == [{"text": " there", "index": 0, "logprobs": None, "finish_reason": "length"}]
        assert found["usage"]["total_tokens"] == 10

    def test_many_prompts(self) -> None:
        """Choice k of prompt i has the index i * n + k, and usage adds up over the prompts."""
        call = completion_call(prompt=["a", "b"], n=2)
        events: list[tuple[int, Event]] = []
        for generation in (1, 0):
            events.append((generation, started()))
            events.extend((generation, Delta(index=k, text=f"{generation}{k}")) for k in (1, 0))
            events.extend((generation, Finish(index=k)) for k in (0, 1))
            events.append((generation, done()))
        found = text_answer(call, [], *events)
        assert [(each["index"], each["text"]) for each in found["choices"]] == [
            (0, "00"),
            (1, "01"),
            (2, "10"),
            (3, "11"),
        ]
        assert found["usage"]["prompt_tokens"] == 18
        assert found["usage"]["completion_tokens"] == 4

    def test_best_of_each_prompt(self) -> None:
        """Each prompt's best choices are its own."""
        call = completion_call(prompt=["a", "b"], best_of=2)
        events: list[tuple[int, Event]] = []
        for generation in (0, 1):
            events.append((generation, started()))
            events.extend((generation, Delta(index=k, text=f"{generation}{k}", tokens=1)) for k in (0, 1))
            events.extend((generation, Finish(index=k, score=-1.0 - (k + generation) % 2)) for k in (0, 1))
            events.append((generation, done()))
        assert [each["text"] for each in text_answer(call, [], *events)["choices"]] == ["00", "11"]

    def test_scoring(self) -> None:
        """Echo with logprobs and no new token scores the prompt; its first token has no probability."""
        call = completion_call(prompt="hié", echo=True, logprobs=1, max_tokens=0)
        prompt = (
            token(b"hi", 0.0),
            token(b"\xc3", -1.0, (Alternative(token=3, data=b"o", logprob=-0.2),)),
            token(b"\xa9", -2.0),
        )
        found = text_answer(call, ["hié"], (0, started(prompt)), (0, Finish(reason="length")), (0, done(0)))
        assert found["choices"][0]["text"] == "hié"
        assert found["choices"][0]["logprobs"] == {
            "tokens": ["hi", "bytes:\\xc3", "bytes:\\xa9"],
            "token_logprobs": [None, -1.0, -2.0],
            "top_logprobs": [None, {"o": -0.2, "bytes:\\xc3": -1.0}, {"bytes:\\xa9": -2.0}],
            "text_offset": [0, 2, 2],
        }

    def test_offsets(self) -> None:
        """Offsets index the returned text; a token the model puts before it has no width."""
        call = completion_call(prompt="ab", echo=True, logprobs=0)
        prompt = (token(b"<s>", 0.0), token(b"ab"))
        found = text_answer(
            call,
            ["ab"],
            (0, started(prompt)),
            (0, Delta(text="cd", tokens=1, logprobs=(token(b"cd"),))),
            (0, Delta(text="e", tokens=1, logprobs=(token(b"e"),))),
            (0, Finish()),
            (0, done()),
        )
        choice = found["choices"][0]
        assert choice["text"] == "abcde"
        assert choice["logprobs"]["text_offset"] == [0, 0, 2, 4]
        assert choice["logprobs"]["tokens"] == ["<s>", "ab", "cd", "e"]
        assert choice["logprobs"]["top_logprobs"] is None


class TestCompletionStream:
    """Streamed `text_completion` objects."""

    def test_golden(self) -> None:
        """The bytes of a plain stream: deltas, finish, end."""
        stream = CompletionStream(completion_call(stream=True), [])
        events = (started(), Delta(text="a", tokens=1), Finish(reason="length"), done())
        raw = b"".join(stream.feed(event) for event in events) + stream.end()
        head = (
            '{"id":"cmpl-1","object":"text_completion","created":5,"model":"tiny",'
            f'"system_fingerprint":"{FINGERPRINT}","choices":[{{"index":0,"text":'
        )
        assert raw.decode() == (
            f'data: {head}"a","logprobs":null,"finish_reason":null}}]}}\n\n'
            f'data: {head}"","logprobs":null,"finish_reason":"length"}}]}}\n\n'
            "data: [DONE]\n\n"
        )

    def test_streams_as_it_answers(self) -> None:
        """The chunks of each choice add up to the whole answer: text, log probabilities and offsets."""
        body = {"prompt": ["ab", "c"], "echo": True, "logprobs": 1, "n": 2}
        events: list[tuple[int, Event]] = []
        for generation, text in enumerate((b"ab", b"c")):
            events.append((generation, started((token(text, 0.0),))))
            for k in (0, 1):
                events.append((generation, Delta(index=k, text="é", tokens=1, logprobs=(token("é".encode()),))))
                events.append((generation, Delta(index=k, text="!", tokens=1, logprobs=(token(b"!"),))))
                events.append((generation, Finish(index=k)))
            events.append((generation, done()))
        whole = text_answer(completion_call(**body), ["ab", "c"], *events)
        chunks = frames(CompletionStream(completion_call(stream=True, **body), ["ab", "c"]), *events)
        for choice in whole["choices"]:
            own = [each["choices"][0] for each in chunks if each["choices"][0]["index"] == choice["index"]]
            assert "".join(each["text"] for each in own) == choice["text"]
            assert own[-1]["finish_reason"] == choice["finish_reason"]
            for key, expected in choice["logprobs"].items():
                assert [
                    value for each in own if each["logprobs"] for value in each["logprobs"][key]
                ] == expected

    def test_usage(self) -> None:
        """With `include_usage` the last chunk has usage and no choices."""
        call = completion_call(stream=True, stream_options={"include_usage": True})
        found = frames(CompletionStream(call, []), started(), Delta(text="a"), Finish(), done())
        assert [each["usage"] for each in found[:-1]] == [None, None]
        assert found[-1]["choices"] == []
        Completion.model_validate(found[-1])


class TestOthers:
    """Embeddings, models, errors."""

    def test_embeddings(self) -> None:
        """Numbers, or little-endian 32-bit floats in base64."""
        vectors = Embeddings(vectors=((0.5, -1.0), (0.25, 2.0)), prompt_tokens=3)
        for encoding, first in (("float", [0.5, -1.0]), ("base64", "AAAAPwAAgL8=")):
            body = {"input": ["a", "b"], "encoding_format": encoding}
            call = read_embedding(body, name="tiny", model="tiny:latest", info=INFO)
            found = json.loads(embedding_answer(call, vectors))
            assert found["data"][0] == {"object": "embedding", "index": 0, "embedding": first}
            assert found["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
            assert (found["object"], found["model"]) == ("list", "tiny")
            if encoding == "float":
                CreateEmbeddingResponse.model_validate(found, strict=True)

    def test_models(self) -> None:
        """Names appear once, without `:latest`; a wildcard is no name."""
        found = json.loads(
            models_answer(["tiny:latest", "gpt-4o:latest", "llama3:8b", "ours/x:latest", "*"], 7)
        )
        assert [each["id"] for each in found["data"]] == ["tiny", "gpt-4o", "llama3:8b", "ours/x"]
        assert found["data"][0] == {"id": "tiny", "object": "model", "created": 7, "owned_by": "library"}
        assert found["data"][3]["owned_by"] == "ours"

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (BadRequest("no", param="n", code="c"), ("no", "invalid_request_error", "n", "c")),
            (Unauthorized("no"), ("no", "invalid_request_error", None, "invalid_api_key")),
            (Busy("full", hint="try again"), ("full; try again", "server_error", None, "server_busy")),
            (EngineDied("gone"), ("gone", "server_error", None, "engine_died")),
        ],
    )
    def test_errors(self, error: ServiceError, expected: tuple[str | None, ...]) -> None:
        """All four fields are there, and the type says whose fault it is."""
        assert tuple(json.loads(error_body(error))["error"].values()) == expected

    def test_overflow(self) -> None:
        """A prompt that is too long is told with both numbers and OpenAI's code."""
        found = json.loads(error_body(ContextOverflow(3000, 2048, param="messages")))["error"]
        assert found["code"] == "context_length_exceeded"
        assert "3000" in found["message"]
        assert "2048" in found["message"]

    def test_error_in_a_stream(self) -> None:
        """A stream that breaks tells why and ends."""
        blocks = error_event(EngineDied("gone")).decode().split("\n\n")
        assert json.loads(blocks[0].removeprefix("data: "))["error"]["message"] == "gone"
        assert blocks[1:] == ["data: [DONE]", ""]
