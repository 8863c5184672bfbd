"""Answers as Ollama writes them: the order of the fields, what is left out, times in nanoseconds."""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import Any

import msgspec

from akashllm.errors import BadRequest, EngineDied
from akashllm.server.domain import Delta, Done, Embeddings, Finish, TokenLogprob, ToolCall
from akashllm.server.wire.encoding import encode


def timestamp(nanoseconds: int | None = None) -> str:
    """A moment as Go writes it: RFC 3339, UTC, up to nine fractional digits, no trailing zeros.

    `nanoseconds` are those since 1970; None is now.
    """
    whole, fraction = divmod(time.time_ns() if nanoseconds is None else nanoseconds, 1_000_000_000)
    return f"{_to_the_second(whole)}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    """One second's text serves all the chunks written in it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Alternative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token and its log probability; `bytes` are its UTF-8 bytes, which need not be a whole character."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Alternative] = []


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """What to call. `arguments` is a JSON object."""

    index: int
    name: str
    arguments: msgspec.Raw


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tool call, always whole."""

    id: str = ""
    function: FunctionCall


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model's message."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: list[Call] = []


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of `/api/generate`. Times are nanoseconds; whatever is empty or zero is left out."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Alternative] = []


class ChatResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of `/api/chat`."""

    model: str
    created_at: str
    message: AnswerMessage
    done: bool
    done_reason: str = ""
    logprobs: list[Alternative] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Answer:
    """One answer on its way out, for both routes and for streams and single objects.

    `delta` and `done` give what a stream sends; the same calls gather what `whole` gives in one object.
    Durations count from `start`, which is `time.perf_counter_ns()` when the request came.
    """

    def __init__(self, model: str, start: int, *, chat: bool) -> None:
        self._model = model
        self._start = start
        self._chat = chat
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[Call] = []
        self._logprobs: list[Alternative] = []
        self._reason = "stop"

    def delta(self, event: Delta) -> bytes:
        """The line for a delta; empty where it carries nothing a client could see."""
        calls = self._index(event.tool_calls)
        logprobs = [alternative(item) for item in event.logprobs]
        if not (event.text or event.thinking or calls or logprobs):
            return b""
        return self._line(event.text, event.thinking, calls, logprobs)

    def add(self, event: Delta) -> None:
        """Gather a delta for `whole`."""
        self._text.append(event.text)
        self._thinking.append(event.thinking)
        self._index(event.tool_calls)
        self._logprobs += [alternative(item) for item in event.logprobs]

    def finish(self, event: Finish) -> None:
        """Remember why the answer ended. A tool call ends it with `stop`, a cancellation too."""
        self._reason = "length" if event.reason == "length" else "stop"

    def last(self, event: Done) -> bytes:
        """The line that ends a stream."""
        return self._line("", "", [], [], event)

    def whole(self, event: Done) -> bytes:
        """All that was gathered, in one object."""
        return self._line("".join(self._text), "".join(self._thinking), self._calls, self._logprobs, event)

    def loaded(self, reason: str) -> bytes:
        """The object that answers a request which only loads or unloads the model."""
        created = timestamp()
        if self._chat:
            message = AnswerMessage(role="assistant", content="")
            return encode(
                ChatResponse(
                    model=self._model, created_at=created, message=message, done=True, done_reason=reason
                )
            )
        return encode(
            GenerateResponse(model=self._model, created_at=created, response="", done=True, done_reason=reason)
        )

    def _index(self, calls: tuple[ToolCall, ...]) -> list[Call]:
        found = [_call(call, index) for index, call in enumerate(calls, len(self._calls))]
        self._calls += found
        return found

    def _line(
        self,
        text: str,
        thinking: str,
        calls: list[Call],
        logprobs: list[Alternative],
        done: Done | None = None,
    ) -> bytes:
        final = self._metrics(done) if done is not None else {}
        if self._chat:
            message = AnswerMessage(role="assistant", content=text, thinking=thinking, tool_calls=calls)
            line: msgspec.Struct = ChatResponse(
                model=self._model,
                created_at=timestamp(),
                message=message,
                done=done is not None,
                logprobs=logprobs,
                **final,
            )
        else:
            line = GenerateResponse(
                model=self._model,
                created_at=timestamp(),
                response=text,
                thinking=thinking,
                done=done is not None,
                context=list(done.context) if done is not None else [],
                logprobs=logprobs,
                **final,
            )
        return encode(line) + b"\n"

    def _metrics(self, done: Done) -> dict[str, Any]:
        return {
            "done_reason": self._reason,
            "total_duration": time.perf_counter_ns() - self._start,
            "load_duration": done.timings.load + done.timings.queue,
            "prompt_eval_count": done.usage.prompt_tokens,
            "prompt_eval_duration": done.timings.prompt,
            "eval_count": done.usage.completion_tokens,
            "eval_duration": done.timings.decode,
        }


def alternative(item: TokenLogprob) -> Alternative:
    """A token's log probability with the alternatives that were asked for."""
    return Alternative(
        token=item.data.decode(errors="replace"),
        logprob=item.logprob,
        bytes=list(item.data),
        top_logprobs=[
            Alternative(token=top.data.decode(errors="replace"), logprob=top.logprob, bytes=list(top.data))
            for top in item.top
        ],
    )


Found = Embeddings | None
"""What embedding gave; None where there was nothing to embed."""


def embed_response(model: str, found: Found, start: int) -> bytes:
    """The body of `/api/embed`."""
    if found is None:
        return b'{"model":%s,"embeddings":[]}' % encode(model)
    vectors = b",".join(_vector(vector) for vector in found.vectors)
    rest = {
        "total_duration": time.perf_counter_ns() - start,
        "load_duration": found.timings.load + found.timings.queue,
        "prompt_eval_count": found.prompt_tokens,
    }
    tail = b"".join(b',"%s":%d' % (key.encode(), value) for key, value in rest.items() if value)
    return b'{"model":%s,"embeddings":[%s]%s}' % (encode(model), vectors, tail)


def embedding_response(found: Found) -> bytes:
    """The body of `/api/embeddings`, the older form."""
    return b'{"embedding":%s}' % (_vector(found.vectors[0]) if found is not None else b"[]")


def error(message: str) -> bytes:
    """An error as the whole body, or as the last line of a stream that had begun."""
    return encode({"error": message}) + b"\n"


def _vector(vector: tuple[float, ...]) -> bytes:
    """Nine digits give every 32-bit float back exactly, in half the bytes of a 64-bit one."""
    if not all(map(math.isfinite, vector)):
        raise BadRequest("embedding contains NaN or Inf values", param="input")
    return b"[%s]" % ",".join([f"{value:.9g}" for value in vector]).encode()


def _call(call: ToolCall, index: int) -> Call:
    try:
        arguments = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError as broken:
        raise EngineDied("the model wrote a tool call whose arguments are no JSON: ask again") from broken
    if not isinstance(arguments, dict):
        raise EngineDied("the model wrote a tool call whose arguments are no JSON object: ask again")
    # Encoded again, because a model may lay its JSON out in lines, and a line is the unit of the stream.
    whole = msgspec.Raw(msgspec.json.encode(arguments))
    return Call(id=call.id, function=FunctionCall(index=index, name=call.name, arguments=whole))
