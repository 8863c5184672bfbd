"""The two dialects as a smoke test speaks them: ask, stream, embed, list; every reply distrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from akashllm.smoke.client import Client, Reply, clean


class BrokenPromise(Exception):
    """What was promised does not hold; the message is the reason."""


class NotHere(Exception):
    """This model or server cannot do that, so nothing can be said; the message is the reason."""


@dataclass(slots=True)
class Answer:
    """One answer in neutral words. `events` are the arrival times in seconds of a stream's pieces of text."""

    text: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    tool_calls: list[tuple[str, Any]] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question. `shape` is "json" or a JSON Schema; `tool` an OpenAI function that must be called."""

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int | None = None
    shape: str | Mapping[str, Any] | None = None
    tool: Mapping[str, Any] | None = None
    stream: bool = False
    pad: int = 0


class Dialect(Protocol):
    """What both dialects can do."""

    name: str

    def models(self, client: Client) -> list[str]:
        """Model names, as a client may send them."""

    def chat(self, client: Client, model: str, ask: Ask) -> Answer:
        """One chat answer."""

    def complete(self, client: Client, model: str, ask: Ask) -> Answer:
        """One completion of a bare prompt."""

    def embed(self, client: Client, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text."""

    def refuses(self, client: Client, model: str, key: str | None) -> Reply:
        """The reply to a request for tokens with that key."""

    def context(self, client: Client, model: str) -> int | None:
        """The context window in tokens, where the server tells."""

    def overlong(self, client: Client, model: str, prompt: str) -> Reply:
        """The reply to a chat with that prompt."""


def body(reply: Reply, *, what: str = "the reply") -> dict[str, Any]:
    """A 200 reply's JSON object. BrokenPromise says what came instead."""
    if reply.status in {501, 405} or (reply.status == 404 and b"page not found" in reply.body):
        raise NotHere(f"the server has no such route ({reply.status})")
    if 300 <= reply.status < 400:
        raise BrokenPromise(
            f"answered {reply.status} with a redirect to {clean(reply.headers.get('location', '?'), 80)}"
        )
    if reply.status != 200:
        raise BrokenPromise(f"answered {reply.status}: {reply.said()}")
    try:
        value = reply.json()
    except ValueError as error:
        raise BrokenPromise(
            f"{what} is not JSON: {clean(reply.cut or str(error), 80)}; it begins {clean(reply.text, 60)!r}"
        ) from error
    if not isinstance(value, dict):
        raise BrokenPromise(f"{what} is not a JSON object but {clean(reply.text, 60)!r}")
    return value


def dig(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indices. BrokenPromise names the first step that is not there."""
    walked = ""
    for step in path:
        walked += f"[{step}]" if isinstance(step, int) else f".{step}"
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise BrokenPromise(f"the reply has no {walked.lstrip('.')}") from None
    return value


def text_of(value: Any, what: str) -> str:
    """`value` as text; null is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BrokenPromise(f"{what} is not text but {clean(repr(value), 40)}")
    return value


def count_of(value: Any) -> int | None:
    """`value` as a count, None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def vectors_of(value: Any) -> list[list[float]]:
    """`value` as finite vectors."""
    if not isinstance(value, list) or not value:
        raise BrokenPromise("there are no vectors in the reply")
    for vector in value:
        if not isinstance(vector, list) or not vector:
            raise BrokenPromise("a vector is empty or no list")
        if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in vector):
            raise BrokenPromise("a vector holds something else than finite numbers")
    return value


def padded(value: Mapping[str, Any], pad: int) -> bytes:
    """`value` as JSON with `pad` spaces inside, which mean nothing to a JSON parser."""
    return b"{" + b" " * pad + json.dumps(value).encode()[1:]


class OpenAi:
    """`/v1` as openai.com documents it."""

    name = "openai"

    def models(self, client: Client) -> list[str]:
        """GET /v1/models."""
        data = dig(body(client.call("GET", "/v1/models")), "data")
        if not isinstance(data, list):
            raise BrokenPromise("`data` is no list")
        return [text_of(dig(entry, "id"), "id") for entry in data[:1000]]

    def _request(self, model: str, ask: Ask) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": ask.prompt}],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
        }
        if ask.seed is not None:
            request["seed"] = ask.seed
        if ask.shape == "json":
            request["response_format"] = {"type": "json_object"}
        elif isinstance(ask.shape, Mapping):
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": ask.shape, "strict": True},
            }
        if ask.tool:
            request |= {"tools": [{"type": "function", "function": ask.tool}], "tool_choice": "required"}
        if ask.stream:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        return request

    def chat(self, client: Client, model: str, ask: Ask) -> Answer:
        """POST /v1/chat/completions."""
        reply = client.call("POST", "/v1/chat/completions", raw=padded(self._request(model, ask), ask.pad))
        return self._streamed(reply) if ask.stream else self._answer(body(reply), "message")

    def complete(self, client: Client, model: str, ask: Ask) -> Answer:
        """POST /v1/completions."""
        request = {
            "model": model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
        }
        return self._answer(body(client.call("POST", "/v1/completions", request)), "")

    def _answer(self, value: dict[str, Any], part: str) -> Answer:
        choice = dig(value, "choices", 0)
        message = dig(choice, part) if part else choice
        usage = value.get("usage") or {}
        answer = Answer(
            text=text_of(message.get("content" if part else "text"), "the answer"),
            finish=text_of(choice.get("finish_reason"), "finish_reason"),
        )
        self._count(answer, usage)
        for call in message.get("tool_calls") or []:
            if dig(call, "type") != "function" or not dig(call, "id"):
                raise BrokenPromise("a tool call lacks its id or its type")
            arguments = dig(call, "function", "arguments")
            try:
                answer.tool_calls.append((dig(call, "function", "name"), json.loads(arguments)))
            except (TypeError, ValueError):
                raise BrokenPromise(f"tool arguments are no JSON text: {clean(repr(arguments), 60)}") from None
        return answer

    def _count(self, answer: Answer, usage: Any) -> None:
        if isinstance(usage, dict):
            answer.prompt_tokens = count_of(usage.get("prompt_tokens"))
            answer.completion_tokens = count_of(usage.get("completion_tokens"))
            answer.total_tokens = count_of(usage.get("total_tokens"))

    def _streamed(self, reply: Reply) -> Answer:
        if reply.status != 200:
            body(reply)
        if "text/event-stream" not in reply.headers.get("content-type", ""):
            raise BrokenPromise(
                f"a stream of {clean(reply.headers.get('content-type', 'none'), 60)}, not text/event-stream"
            )
        answer, ended = Answer(), False
        for when, line in lines_of(reply):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                ended = True
                break
            chunk = chunk_of(data)
            if "error" in chunk:
                raise BrokenPromise(f"the stream broke off: {clean(json.dumps(chunk['error']), 120)}")
            self._count(answer, chunk.get("usage"))
            for choice in chunk.get("choices") or []:
                answer.finish = choice.get("finish_reason") or answer.finish
                piece = text_of((choice.get("delta") or {}).get("content"), "a delta")
                if piece:
                    answer.text += piece
                    answer.events.append(when)
        if not ended:
            raise BrokenPromise(
                f"the stream has no [DONE] at its end{f': it {reply.cut}' if reply.cut else ''}"
            )
        return answer

    def embed(self, client: Client, model: str, texts: Sequence[str]) -> list[list[float]]:
        """POST /v1/embeddings."""
        reply = client.call(
            "POST", "/v1/embeddings", {"model": model, "input": list(texts), "encoding_format": "float"}
        )
        unsupported(reply)
        data = dig(body(reply), "data")
        return vectors_of([dig(entry, "embedding") for entry in data])

    def refuses(self, client: Client, model: str, key: str | None) -> Reply:
        """A chat with that key."""
        return client.call(
            "POST", "/v1/chat/completions", self._request(model, Ask("hi", max_tokens=1)), key=key
        )

    def context(self, client: Client, model: str) -> int | None:
        """`max_model_len` (vLLM), `context_length`, or llama-server's `meta.n_ctx`, from /v1/models."""
        for entry in dig(body(client.call("GET", "/v1/models")), "data"):
            if isinstance(entry, dict) and _same(model, entry.get("id")):
                meta = entry.get("meta")
                meta = meta if isinstance(meta, dict) else {}
                for found in (entry.get("max_model_len"), entry.get("context_length"), meta.get("n_ctx")):
                    if count_of(found):
                        return count_of(found)
        return None

    def overlong(self, client: Client, model: str, prompt: str) -> Reply:
        """A chat with that prompt."""
        return client.call("POST", "/v1/chat/completions", self._request(model, Ask(prompt, max_tokens=4)))


class Ollama:
    """`/api` as Ollama documents it."""

    name = "ollama"

    def models(self, client: Client) -> list[str]:
        """GET /api/tags."""
        data = dig(body(client.call("GET", "/api/tags")), "models")
        if not isinstance(data, list):
            raise BrokenPromise("`models` is no list")
        return [text_of(entry.get("model") or dig(entry, "name"), "name") for entry in data[:1000]]

    def _request(self, model: str, ask: Ask) -> dict[str, Any]:
        options: dict[str, Any] = {"num_predict": ask.max_tokens, "temperature": ask.temperature}
        if ask.seed is not None:
            options["seed"] = ask.seed
        request: dict[str, Any] = {"model": model, "stream": ask.stream, "options": options}
        if ask.shape is not None:
            request["format"] = ask.shape
        if ask.tool:
            request["tools"] = [{"type": "function", "function": ask.tool}]
        return request

    def chat(self, client: Client, model: str, ask: Ask) -> Answer:
        """POST /api/chat."""
        request = self._request(model, ask) | {"messages": [{"role": "user", "content": ask.prompt}]}
        reply = client.call("POST", "/api/chat", raw=padded(request, ask.pad))
        if ask.tool and reply.status == 400 and b"does not support tools" in reply.body:
            raise NotHere("the model has no tools")
        return self._streamed(reply, "message") if ask.stream else self._answer(body(reply), "message")

    def complete(self, client: Client, model: str, ask: Ask) -> Answer:
        """POST /api/generate."""
        reply = client.call("POST", "/api/generate", self._request(model, ask) | {"prompt": ask.prompt})
        return self._answer(body(reply), "")

    def _answer(self, value: dict[str, Any], part: str) -> Answer:
        if "error" in value:
            raise BrokenPromise(f"answered with an error: {clean(str(value['error']), 120)}")
        if value.get("done") is not True:
            raise BrokenPromise("the answer does not say done: true")
        answer = Answer(finish=text_of(value.get("done_reason"), "done_reason"))
        answer.text = text_of(dig(value, part, "content") if part else dig(value, "response"), "the answer")
        answer.prompt_tokens = count_of(value.get("prompt_eval_count"))
        answer.completion_tokens = count_of(value.get("eval_count"))
        for call in (value.get(part) or {}).get("tool_calls") or [] if part else []:
            answer.tool_calls.append((dig(call, "function", "name"), dig(call, "function", "arguments")))
        return answer

    def _streamed(self, reply: Reply, part: str) -> Answer:
        if reply.status != 200:
            body(reply)
        text, events, last = "", [], None
        for when, line in lines_of(reply):
            chunk = chunk_of(line)
            if "error" in chunk:
                raise BrokenPromise(f"the stream broke off: {clean(str(chunk['error']), 120)}")
            piece = text_of((chunk.get(part) or {}).get("content"), "a piece")
            if piece:
                text += piece
                events.append(when)
            if chunk.get("done") is True:
                last = chunk
        if last is None:
            raise BrokenPromise(
                f"the stream has no object with done: true{f': it {reply.cut}' if reply.cut else ''}"
            )
        answer = self._answer(last | {part: (last.get(part) or {}) | {"content": text}}, part)
        answer.events = events
        return answer

    def embed(self, client: Client, model: str, texts: Sequence[str]) -> list[list[float]]:
        """POST /api/embed."""
        reply = client.call("POST", "/api/embed", {"model": model, "input": list(texts)})
        unsupported(reply)
        return vectors_of(dig(body(reply), "embeddings"))

    def refuses(self, client: Client, model: str, key: str | None) -> Reply:
        """A chat with that key."""
        request = self._request(model, Ask("hi", max_tokens=1)) | {
            "messages": [{"role": "user", "content": "hi"}]
        }
        return client.call("POST", "/api/chat", request, key=key)

    def context(self, client: Client, model: str) -> int | None:
        """`context_length` of /api/ps for a loaded model."""
        for entry in dig(body(client.call("GET", "/api/ps")), "models"):
            if isinstance(entry, dict) and _same(model, entry.get("name") or entry.get("model")):
                return count_of(entry.get("context_length"))
        return None

    def overlong(self, client: Client, model: str, prompt: str) -> Reply:
        """A chat with that prompt."""
        request = self._request(model, Ask(prompt, max_tokens=4)) | {
            "messages": [{"role": "user", "content": prompt}]
        }
        return client.call("POST", "/api/chat", request)


def _same(name: str, other: object) -> bool:
    """Whether both are one model: the tag `latest` may be left out."""
    return isinstance(other, str) and name.removesuffix(":latest") == other.removesuffix(":latest")


def lines_of(reply: Reply) -> list[tuple[float, bytes]]:
    """Non-empty lines of a streamed reply, each with the time its last byte arrived."""
    found: list[tuple[float, bytes]] = []
    rest = b""
    for when, data in reply.pieces:
        *whole, rest = (rest + data).split(b"\n")
        found += [(when, line.strip()) for line in whole if line.strip()]
    if rest.strip():
        found.append((reply.seconds, rest.strip()))
    return found


def chunk_of(line: bytes) -> dict[str, Any]:
    """One JSON object of a stream."""
    try:
        value = json.loads(line)
    except ValueError:
        raise BrokenPromise(
            f"a line of the stream is not JSON: {clean(line.decode('utf-8', 'replace'), 60)!r}"
        ) from None
    if not isinstance(value, dict):
        raise BrokenPromise("a line of the stream is no JSON object")
    return value


def unsupported(reply: Reply) -> None:
    """NotHere when a refusal says that the model cannot embed."""
    said = reply.said().lower()
    if reply.status in {400, 404, 500, 501} and "embed" in said and ("support" in said or "not" in said):
        raise NotHere(f"the model gives no embeddings ({reply.status}: {reply.said()})")
