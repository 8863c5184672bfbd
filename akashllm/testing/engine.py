"""A scripted engine: the whole `Engine` protocol without a model, and every fault on demand.

It echoes what it is asked unless a script says otherwise, one word a token::

    engine = ScriptedEngine({"What is 1+1?": Reply("2"), "die": Reply("never finished", die_after=1)})

Nothing in it sleeps: what must wait, waits for an `asyncio.Event` of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from akashllm.errors import BadRequest, ContextOverflow, EngineDied, EngineFailed, ServiceError
from akashllm.server.domain import (
    Alternative,
    ChatPrompt,
    Delta,
    Done,
    Embedding,
    Embeddings,
    EngineStats,
    Event,
    Finish,
    FinishReason,
    Generation,
    InfillPrompt,
    Message,
    ModelInfo,
    Prompt,
    Started,
    TextPrompt,
    Timings,
    TokenLogprob,
    TokenPrompt,
    ToolCall,
    Usage,
)
from akashllm.server.engine import State, Watcher

_PIECE = re.compile(r"\s*\S+|\s+$")
_DIMENSIONS = 8
_MILLISECOND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _ReplyFields:
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reason: FinishReason | None = None
    error: ServiceError | None = None
    die_after: int | None = None
    fail_after: tuple[int, ServiceError] | None = None
    gate: asyncio.Event | None = None
    gate_after: int = 0
    pieces: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Reply(_ReplyFields):
    """What the engine does with one request.

    text         the answer, sent a word at a time; `pieces` says the cuts instead
    thinking     sent before the text
    tool_calls   sent after the text
    reason       instead of what follows from max_tokens, stop and tool calls
    error        raised instead of the first event
    die_after    raise `EngineDied` after so many pieces;  fail_after: another error
    gate         wait for it before piece number `gate_after`
    """

    text: str = ""


Script = Mapping[str, Reply] | Callable[[Generation], Reply]
"""Replies by prompt text, or a function of the request."""


def asked(prompt: Prompt) -> str:
    """What a prompt says: the last message of a chat, the text, the tokens' text, or prefix and suffix."""
    match prompt:
        case ChatPrompt():
            return prompt.messages[-1].content if prompt.messages else ""
        case TextPrompt():
            return prompt.text
        case TokenPrompt():
            return bytes(prompt.tokens).decode(errors="replace")
        case InfillPrompt():
            return f"{prompt.prefix}<fill>{prompt.suffix}"


class ScriptedEngine:
    """An `Engine` whose answers, delays and deaths are written down beforehand.

    Tokens are the bytes of UTF-8 for `tokenize`; a generated token is a word. `requests` and `embeddings`
    record what was asked, `cancelled` the ids whose iterator was closed early. With `manual=True` a load
    waits until `finish_loading()` or `fail_loading()` is called.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        name: str = "scripted",
        info: ModelInfo | None = None,
        manual: bool = False,
    ) -> None:
        self.script: Script = script if script is not None else {}
        self.requests: list[Generation] = []
        self.embeddings: list[Embedding] = []
        self.cancelled: list[str] = []
        self.loads = 0
        self.closed = False
        self._name = name
        self._info = info or ModelInfo(
            name="tiny",
            family="llama",
            parameters=3_500_000,
            quantization="Q8_0",
            context=2048,
            train_context=2048,
            embedding_length=_DIMENSIONS,
            vocab_size=256,
            slots=4,
            size=3_806_528,
            memory=8_000_000,
            capabilities=("completion", "tools", "thinking", "insert", "embedding"),
            chat_template="{{ messages }}{{ tools }}",
            metadata={"general.architecture": "llama", "llama.context_length": 2048},
        )
        self._manual = manual
        self._state: State = "starting"
        self._watchers: list[Watcher] = []
        self._outcome: asyncio.Future[None] | None = None
        self._running = 0
        self._completion_tokens = 0
        self._prompt_tokens = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # --- the protocol ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def info(self) -> ModelInfo:
        """The model it pretends to have."""
        return self._info

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Become ready: at once, or when the test says so."""
        if self._state == "ready":
            return
        if self._outcome is None or self._outcome.done():
            self.loads += 1
            self._outcome = asyncio.get_running_loop().create_future()
            self.become("loading", "loading", 0.0)
            if not self._manual:
                self.finish_loading()
        await asyncio.shield(self._outcome)

    async def unload(self) -> None:
        """Forget the model; the next load brings it again."""
        self.become("unloaded", "unloaded")

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The scripted reply, cut into events."""
        self.requests.append(request)
        reply = self._reply(request)
        if reply.error is not None:
            raise reply.error
        prompt_tokens = self._count(request.prompt)
        if prompt_tokens >= (request.context or self._info.context):
            raise ContextOverflow(prompt_tokens, request.context or self._info.context)
        self._running += 1
        self._idle.clear()
        self._prompt_tokens += prompt_tokens
        finished = False
        try:
            yield Started(prompt_tokens=prompt_tokens)
            completion = 0
            for index in range(request.n):
                async with contextlib.aclosing(self._choice(request, reply, index)) as events:
                    async for event, tokens in events:
                        completion += tokens
                        yield event
            finished = True
            yield Done(
                usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=completion),
                timings=Timings(prompt=_MILLISECOND * prompt_tokens, decode=_MILLISECOND * completion),
                context=self._context(request, reply) if request.want_context else (),
            )
        finally:
            if not finished:
                self.cancelled.append(request.id)
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def embed(self, request: Embedding) -> Embeddings:
        """A vector that depends on the bytes of the input and nothing else, of length 1 if asked."""
        self.embeddings.append(request)
        texts = [
            item if isinstance(item, str) else bytes(item).decode(errors="replace") for item in request.inputs
        ]
        reply = self.script.get(texts[0]) if isinstance(self.script, Mapping) and texts else None
        if reply is not None and reply.gate is not None:
            await reply.gate.wait()
        if reply is not None and reply.error is not None:
            raise reply.error
        vectors = tuple(_vector(text, request.dimensions, normalize=request.normalize) for text in texts)
        return Embeddings(vectors=vectors, prompt_tokens=sum(len(text.encode()) for text in texts))

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """The bytes of `text`."""
        del special
        return [*([0] if bos else []), *text.encode()]

    async def detokenize(self, tokens: list[int]) -> str:
        """The inverse of `tokenize`."""
        if any(not 0 <= token < self._info.vocab_size for token in tokens):
            raise BadRequest(f"a token id is outside the vocabulary of {self._info.vocab_size}")
        return bytes(tokens).decode(errors="replace")

    def stats(self) -> EngineStats:
        """Counts of what it has done."""
        return EngineStats(
            running=self._running,
            slots=self._info.slots,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    async def close(self) -> None:
        """Nothing to stop."""
        self.closed = True
        if self._outcome is not None and not self._outcome.done():
            self._outcome.cancel()

    # --- the strings a test pulls ------------------------------------------------------------------

    def become(self, state: State, text: str = "", percent: float | None = None) -> None:
        """Change state and tell the watchers."""
        self._state = state
        for watcher in self._watchers:
            watcher(state, text, percent)

    def progress(self, percent: float) -> None:
        """Say how far the load is."""
        self.become("loading", "loading the weights", percent)

    def finish_loading(self) -> None:
        """End the load well."""
        self.become("ready", "ready", 100.0)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def fail_loading(self, reason: str = "the file is not a GGUF file") -> None:
        """End the load badly."""
        self.become("failed", reason)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(EngineFailed(reason))

    async def idle(self) -> None:
        """Wait until no request runs."""
        await self._idle.wait()

    # --- how a reply is cut ------------------------------------------------------------------------

    def _reply(self, request: Generation) -> Reply:
        if callable(self.script):
            return self.script(request)
        text = asked(request.prompt)
        return self.script.get(text) or Reply(f"echo: {text}")

    async def _choice(self, request: Generation, reply: Reply, index: int) -> AsyncGenerator[tuple[Event, int]]:
        pieces, cut = _cut(reply, request)
        sent = 0
        for kind, piece in pieces:
            if reply.gate is not None and sent == reply.gate_after:
                await reply.gate.wait()
            if reply.die_after == sent:
                raise EngineDied("the engine stopped while it was answering; it is being restarted")
            if reply.fail_after is not None and reply.fail_after[0] == sent:
                raise reply.fail_after[1]
            sent += 1
            self._completion_tokens += 1
            logprobs = () if request.logprobs is None else (_logprob(piece, request.logprobs),)
            if kind == "thinking":
                yield Delta(index=index, thinking=piece, tokens=1), 1
            else:
                yield Delta(index=index, text=piece, tokens=1, logprobs=logprobs), 1
        if reply.gate is not None and sent <= reply.gate_after:
            await reply.gate.wait()
        if reply.die_after is not None and reply.die_after >= sent:
            raise EngineDied("the engine stopped while it was answering; it is being restarted")
        if reply.tool_calls:
            yield Delta(index=index, tool_calls=reply.tool_calls, tokens=1), 1
        reason: FinishReason = cut or ("tool_calls" if reply.tool_calls else "stop")
        score = -float(sent) if request.score else None
        yield Finish(index=index, reason=reply.reason or reason, stop=_stopped(reply, request), score=score), 0

    def _count(self, prompt: Prompt) -> int:
        if isinstance(prompt, TokenPrompt):
            return max(1, len(prompt.tokens))
        if isinstance(prompt, ChatPrompt):
            words = sum(len(_PIECE.findall(message.content)) for message in prompt.messages)
            return max(1, words + len(prompt.prefix_tokens))
        return max(1, len(_PIECE.findall(asked(prompt))))

    def _context(self, request: Generation, reply: Reply) -> tuple[int, ...]:
        before = request.prompt.prefix_tokens if isinstance(request.prompt, ChatPrompt) else ()
        return (*before, *asked(request.prompt).encode(), *reply.text.encode())


def message(content: str, role: str = "user") -> Message:
    """A message of a chat."""
    return Message(role=role, content=content)


def chat(content: str, *, request_id: str = "test", model: str = "tiny:latest") -> Generation:
    """A request with one message and the defaults for everything else."""
    return Generation(id=request_id, model=model, prompt=ChatPrompt(messages=(message(content),)))


def _cut(
    reply: Reply, request: Generation
) -> tuple[Sequence[tuple[Literal["thinking", "text"], str]], FinishReason | None]:
    """The pieces that max_tokens and the stop strings leave, and why the rest is gone."""
    text = reply.text
    for stop in request.stop:
        text = text.partition(stop)[0]
    words = reply.pieces if reply.pieces is not None else _PIECE.findall(text)
    pieces: list[tuple[Literal["thinking", "text"], str]] = [
        *(("thinking", piece) for piece in _PIECE.findall(reply.thinking)),
        *(("text", piece) for piece in words),
    ]
    if request.max_tokens is not None and len(pieces) > request.max_tokens:
        return pieces[: request.max_tokens], "length"
    return pieces, None


def _stopped(reply: Reply, request: Generation) -> str | None:
    return next((stop for stop in request.stop if stop in reply.text), None)


def _logprob(piece: str, alternatives: int) -> TokenLogprob:
    data = piece.encode()
    top = tuple(
        Alternative(token=rank, data=data if rank == 0 else f"<{rank}>".encode(), logprob=-0.5 - rank)
        for rank in range(alternatives)
    )
    return TokenLogprob(token=0, data=data, logprob=-0.5, top=top)


def _vector(text: str, dimensions: int | None, *, normalize: bool) -> tuple[float, ...]:
    digest = hashlib.sha256(text.encode()).digest()
    values = [byte / 255 - 0.5 for byte in digest[: dimensions or _DIMENSIONS]]
    length = math.sqrt(sum(value * value for value in values)) if normalize else 1.0
    return tuple(value / length for value in values)
