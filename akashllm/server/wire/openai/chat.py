"""`POST /v1/chat/completions`: the request, the whole answer and the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akashllm.errors import Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    Delta,
    Done,
    Event,
    Finish,
    Generation,
    Message,
    ModelInfo,
    Started,
    TokenLogprob,
    ToolCall,
)
from akashllm.server.wire.openai.answers import Collected, Counter, best
from akashllm.server.wire.openai.call import Call, new_id, now
from akashllm.server.wire.openai.encoding import DONE, FINGERPRINT, encode, event
from akashllm.server.wire.openai.logprobs import chat_logprobs
from akashllm.server.wire.openai.messages import read_messages
from akashllm.server.wire.openai.reading import Fields, invalid
from akashllm.server.wire.openai.sampling import (
    MAX_TOP_LOGPROBS,
    read_choices,
    read_constraint,
    read_ignore_eos,
    read_include_usage,
    read_max_tokens,
    read_sampling,
    read_stop,
)
from akashllm.server.wire.openai.tools import Tooling, read_tooling

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


class ChatCall(Call, frozen=True, kw_only=True):
    """`legacy`: the client sent `functions`, and reads `function_call` in the answer."""

    legacy: bool = False


def read_chat(values: Mapping[str, Any], *, name: str, model: str, info: ModelInfo) -> ChatCall:
    """A request from its JSON. `name` is the model as the client typed it, `model` as it is served."""
    body = Fields(values)
    stream = body.boolean("stream")
    tooling = read_tooling(body, info)
    n, best_of = read_choices(body, stream=stream)
    logprobs = _read_logprobs(body)
    _refuse_audio(body)
    messages = read_messages(body, info)
    identifier = new_id("chatcmpl")
    generation = Generation(
        id=identifier,
        model=model,
        prompt=ChatPrompt(
            messages=messages,
            tools=tooling.tools,
            tool_choice=tooling.choice,
            parallel_tool_calls=tooling.parallel,
            think=_read_effort(body, info),
            continue_final=_read_continue(body, messages),
        ),
        sampling=read_sampling(body, info.vocab_size),
        constraint=_read_constraint(body, tooling),
        n=best_of,
        max_tokens=read_max_tokens(body, "max_completion_tokens", "max_tokens"),
        stop=read_stop(body),
        ignore_eos=read_ignore_eos(body),
        logprobs=logprobs,
        score=best_of > n,
    )
    return ChatCall(
        id=identifier,
        created=now(),
        model=name,
        generations=(generation,),
        n=n,
        stream=stream,
        include_usage=read_include_usage(body),
        logprobs=logprobs is not None,
        legacy=tooling.legacy,
    )


def _read_logprobs(body: Fields) -> int | None:
    wanted = body.boolean("logprobs")
    top = body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if wanted:
        return top or 0
    if top:
        raise invalid("top_logprobs", "needs 'logprobs' to be true")
    return None


def _read_effort(body: Fields, info: ModelInfo) -> bool | str | None:
    effort = body.choice("reasoning_effort", tuple(_EFFORTS))
    if effort is None:
        return None
    think = _EFFORTS[effort]
    if think is not False and info.capabilities and "thinking" not in info.capabilities:
        raise Unsupported(
            "this model does not reason before it answers", param="reasoning_effort", hint="leave it out"
        )
    return think


def _read_continue(body: Fields, messages: tuple[Message, ...]) -> bool:
    wanted = body.boolean("continue_final_message")
    if wanted and messages[-1].role != "assistant":
        raise invalid("continue_final_message", "needs the last message to be the assistant's")
    return wanted


def _read_constraint(body: Fields, tooling: Tooling) -> Constraint | None:
    constraint = read_constraint(body)
    if constraint is not None and constraint.kind == "gbnf" and tooling.tools:
        raise invalid("grammar", "and 'tools' exclude each other: send one of them")
    if tooling.choice.mode in ("required", "named"):
        # The answer is a call, whose shape is the tool's own; `response_format` is for answers in text.
        return None
    return constraint


def _refuse_audio(body: Fields) -> None:
    for position, modality in enumerate(body.array("modalities") or ()):
        if modality != "text":
            raise Unsupported(
                "this service answers in text only",
                param=f"modalities[{position}]",
                code="unsupported_value",
            )


# --- the whole answer ----------------------------------------------------------------------------------


def chat_answer(call: ChatCall, collected: Collected) -> bytes:
    """A `chat.completion` object."""
    choices = [
        {
            "index": index,
            "message": _message(call, choice.text, choice.thinking, choice.tool_calls),
            "logprobs": chat_logprobs(choice.logprobs) if call.logprobs else None,
            "finish_reason": _finish_reason(call, choice.reason, made_calls=bool(choice.tool_calls)),
        }
        for index, choice in enumerate(best(collected.choices, call.n) if call.best_of else collected.choices)
    ]
    return encode(
        {
            "id": call.id,
            "object": "chat.completion",
            "created": call.created,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": collected.counter.usage(),
        }
    )


def _message(call: ChatCall, text: str, thinking: str, calls: list[ToolCall]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
    }
    if thinking:
        # llama-server, vLLM and DeepSeek say the first; Ollama and OpenRouter the second.
        message["reasoning_content"] = thinking
        message["reasoning"] = thinking
    if calls and call.legacy:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in calls
        ]
    return message


def _finish_reason(call: ChatCall, reason: str, *, made_calls: bool) -> str:
    if made_calls and reason != "length":
        return "function_call" if call.legacy else "tool_calls"
    return "length" if reason == "length" else "stop"


# --- the stream ----------------------------------------------------------------------------------------


class ChatStream:
    """Turns events into server-sent events.

    A role chunk for each choice, deltas, a finish chunk for each choice, usage if asked, [DONE].
    A chunk is spliced from constant bytes, for this runs once a token.
    """

    def __init__(self, call: ChatCall) -> None:
        self._call = call
        self._head = (
            b'data: {"id":' + encode(call.id) + b',"object":"chat.completion.chunk","created":'
            + encode(call.created) + b',"model":' + encode(call.model)
            + b',"system_fingerprint":' + encode(FINGERPRINT) + b',"choices":['
        )  # fmt: skip
        usage = b',"usage":null' if call.include_usage else b""
        self._tail = b"]" + usage + b"}\n\n"
        self._open_tail = b',"finish_reason":null}' + self._tail
        self._starts = [self._head + b'{"index":' + encode(index) + b',"delta":{' for index in range(call.n)]
        self._calls = [0] * call.n
        self._counter = Counter()

    def feed(self, incoming: Event, _generation: int = 0) -> bytes:
        """The bytes an event becomes; none for some."""
        match incoming:
            case Delta():
                return self._delta(incoming)
            case Started():
                role = b'"role":"assistant","content":"","refusal":null},"logprobs":null'
                return b"".join(start + role + self._open_tail for start in self._starts)
            case Finish():
                made = bool(self._calls[incoming.index])
                reason = _finish_reason(self._call, incoming.reason, made_calls=made)
                return b"".join(
                    (
                        self._starts[incoming.index],
                        b'},"logprobs":null,"finish_reason":',
                        encode(reason),
                        b"}",
                        self._tail,
                    )
                )
            case Done():
                self._counter.done(incoming)
                return b""

    def end(self) -> bytes:
        """The last bytes: usage if it was asked for, and the end mark."""
        if not self._call.include_usage:
            return DONE
        return event(self._head, b'],"usage":' + encode(self._counter.usage()) + b"}") + DONE

    def _delta(self, delta: Delta) -> bytes:
        self._counter.delta(delta)
        start = self._starts[delta.index]
        if delta.text and not (delta.thinking or delta.tool_calls or delta.logprobs):
            return b"".join((start, b'"content":', encode(delta.text), b'},"logprobs":null', self._open_tail))
        parts: list[bytes] = []
        if delta.thinking:
            thought = encode(delta.thinking)
            parts.append(b'"reasoning_content":' + thought + b',"reasoning":' + thought)
        if delta.text:
            parts.append(b'"content":' + encode(delta.text))
        parts.extend(self._call_delta(delta.index, each) for each in delta.tool_calls)
        if delta.logprobs and self._call.logprobs:
            return self._with_logprobs(start, parts or [b'"content":""'], delta.logprobs)
        return b"".join(start + part + b'},"logprobs":null' + self._open_tail for part in parts)

    def _with_logprobs(self, start: bytes, parts: list[bytes], logprobs: tuple[TokenLogprob, ...]) -> bytes:
        """The log probabilities go with the last of the chunks that the tokens became."""
        found = b'},"logprobs":' + encode(chat_logprobs(logprobs))
        frames = [start + part + b'},"logprobs":null' + self._open_tail for part in parts[:-1]]
        return b"".join((*frames, start, parts[-1], found, self._open_tail))

    def _call_delta(self, index: int, call: ToolCall) -> bytes:
        position = self._calls[index]
        self._calls[index] += 1
        function = {"name": call.name, "arguments": call.arguments}
        if self._call.legacy:
            return b'"function_call":' + encode(function)
        return b'"tool_calls":' + encode(
            [{"index": position, "id": call.id, "type": "function", "function": function}]
        )
