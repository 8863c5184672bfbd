"""An engine behind the framed protocol: the service's side, the same for every child that speaks it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec

from akashllm.errors import BadRequest, EngineDied, EngineFailed, ServiceError
from akashllm.server.chat.builtin import builtin_template
from akashllm.server.chat.formats import ChatFormat
from akashllm.server.domain import (
    ChatPrompt,
    Delta,
    Done,
    Embedding,
    Embeddings,
    EngineStats,
    Event,
    Finish,
    Generation,
    ModelInfo,
    Started,
)
from akashllm.server.engine import State, Watcher
from akashllm.server.engines import frames
from akashllm.server.engines.answer import AnswerReader
from akashllm.server.engines.feeds import Feed, TextFeed
from akashllm.server.engines.frames import (
    Answer,
    Beat,
    Cancel,
    Detokenize,
    Embed,
    Fault,
    Hold,
    Load,
    Opened,
    Order,
    Ready,
    Reply,
    Report,
    Step,
    Submit,
    Tokenize,
    Told,
)
from akashllm.server.engines.supervisor import Supervisor

log = logging.getLogger("akashllm.engine")

HIGH_WATER = 64 * 1024
"""Bytes, roughly, a slow reader may leave unread before its request is held; it goes on at half of that."""

_SEEDS = 1 << 63


class FramedEngine:
    """Implements `akashllm.server.engine.Engine` over a supervised child."""

    def __init__(
        self,
        name: str,
        module: str,
        order: Load,
        info: ModelInfo,
        *,
        watchdog: float = 60.0,
        python: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._info = info
        self._supervisor = Supervisor(
            module, order, self, watchdog=watchdog, python=python, environment=environment
        )
        self._keys = itertools.count(1)
        self._feeds: dict[int, Feed[Any]] = {}
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._stats = EngineStats()
        self._formats: dict[bool, ChatFormat] = {}

    # --- the Engine protocol -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Which engine this is."""
        return self._name

    @property
    def state(self) -> State:
        """Where the child is."""
        return self._supervisor.state

    @property
    def reason(self) -> str:
        """A sentence about the state: why it failed, why it restarts."""
        return self._supervisor.reason

    @property
    def fault(self) -> str:
        """Whose a failure is, where that is certain: `order`."""
        return self._supervisor.fault

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self._info

    @property
    def log_lines(self) -> tuple[str, ...]:
        """The last lines the child wrote."""
        return tuple(self._supervisor.lines)

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._supervisor.pid

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called on every change of state."""
        self._supervisor.watch(watcher)

    async def load(self) -> None:
        """Start the child and wait until it is ready. Raises `EngineFailed`."""
        if self.state == "ready":
            return
        if self.state in {"unloaded", "failed"}:
            await self._supervisor.start()
        if await self._supervisor.settled() != "ready":
            raise self._failure()

    async def unload(self) -> None:
        """End the child; requests that are open end with `EngineDied`."""
        await self._supervisor.stop()

    async def close(self) -> None:
        """End the child for good."""
        await self._supervisor.stop()

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The events of one request; closing the iterator cancels it."""
        await self.load()
        feed = TextFeed(Submit(key=next(self._keys), request=self._adapt(request)))
        self._enter(feed)
        try:
            while (event := await feed.next()) is not None:
                if feed.held and feed.size < HIGH_WATER // 2:
                    feed.held = False
                    self._supervisor.send(Hold(key=feed.key, on=False))
                yield event
                if type(event) is Done:
                    return
        finally:
            self._leave(feed)

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input."""
        key = next(self._keys)
        reply = await self._ask(key, Embed(key=key, request=request))
        if reply.embeddings is None:
            raise ServiceError("the engine gave no embeddings")
        return reply.embeddings

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`."""
        key = next(self._keys)
        reply = await self._ask(key, Tokenize(key=key, text=text, special=special, bos=bos))
        return list(reply.tokens or ())

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of `tokens`."""
        key = next(self._keys)
        reply = await self._ask(key, Detokenize(key=key, tokens=tuple(tokens)))
        return reply.text or ""

    def stats(self) -> EngineStats:
        """What the child last said, with what this side knows better."""
        slots = self._info.slots
        open_now = len(self._feeds)
        running = min(open_now, slots)
        return msgspec.structs.replace(
            self._stats,
            running=running,
            waiting=open_now - running,
            slots=slots,
            restarts=self._supervisor.restarts,
        )

    # --- what an engine may change -------------------------------------------------------------------------

    def _adapt(self, request: Generation) -> Generation:
        """The request as the child is to see it."""
        seed = request.sampling.seed
        if seed is None or 0 <= seed < _SEEDS:
            return request
        sampling = msgspec.structs.replace(request.sampling, seed=seed % _SEEDS)
        return msgspec.structs.replace(request, sampling=sampling)

    def _loaded(self, info: ModelInfo) -> ModelInfo:
        """What is known of the model once the child has told."""
        return info

    def _take(self, feed: Feed[Any], event: Told) -> None:
        """Take what the child says of a request."""
        if not isinstance(feed, TextFeed):
            return
        if isinstance(event, Opened):
            feed.tail = event.tail
        elif isinstance(event, Started | Delta | Finish | Done):
            for seen in self._read(feed, event):
                feed.put(seen)
            if feed.size > HIGH_WATER and not feed.held and not feed.over:
                feed.held = True
                self._supervisor.send(Hold(key=feed.key, on=True))

    def _read(self, feed: TextFeed, event: Event) -> Iterable[Event]:
        """The events the reader sees for one of the child's: a chat's raw text becomes thinking and calls."""
        prompt = feed.request.prompt
        if not isinstance(prompt, ChatPrompt) or isinstance(event, Started | Done):
            return (event,)
        reader = feed.readers.get(event.index)
        if reader is None:
            tools = () if prompt.tool_choice.mode == "none" else prompt.tools
            form = ChatFormat.detect(prompt.template) if prompt.template else self._format(bool(tools))
            parser = form.parser(tools=tools, think=prompt.think, prompt_tail=feed.tail)
            reader = feed.readers[event.index] = AnswerReader(parser)
        return reader.delta(event) if isinstance(event, Delta) else reader.finish(event)

    def _format(self, tools: bool) -> ChatFormat:  # noqa: FBT001 - a key of the cache
        form = self._formats.get(tools)
        if form is None:
            source = self._info.metadata.get("tokenizer.chat_template.tool_use") if tools else None
            source = source or self._info.chat_template or builtin_template(self._info.family)
            form = self._formats[tools] = ChatFormat.detect(str(source))
        return form

    # --- the supervisor's listener -------------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """Hand out what the child says."""
        match report:
            case Step():
                for answer in report.answers:
                    self._answer(answer)
            case Beat():
                self._stats = report.stats
            case Reply():
                future = self._replies.get(report.key)
                if future is not None and not future.done():
                    future.set_result(report)
            case Ready():
                self._info = self._loaded(report.info)
                self._formats.clear()
            case _:
                pass

    def ready(self) -> None:
        """Order again what the last child had not answered."""
        for feed in self._open():
            self._supervisor.send(feed.order)

    def died(self, words: str) -> None:
        """End what the child was doing; what nobody has seen anything of waits for the next one."""
        error = EngineDied(f"the engine stopped while this request was running: {words}", hint="send it again")
        for feed in self._open():
            feed.lost(error)
        self._drop_replies(error)

    def gone(self, words: str) -> None:
        """End everything."""
        error = EngineDied(f"{words} while this request was running", hint="send it again")
        for feed in self._open():
            feed.fail(error)
        self._drop_replies(error)

    # --- inner ---------------------------------------------------------------------------------------------

    def _enter(self, feed: Feed[Any]) -> None:
        """Have the child begin with a request. Every feed that is entered has to be left."""
        self._send(feed.order)
        self._feeds[feed.key] = feed

    def _leave(self, feed: Feed[Any]) -> None:
        """Nobody reads it any more."""
        del self._feeds[feed.key]
        if not feed.over:
            self._supervisor.send(Cancel(key=feed.key))

    def _open(self) -> list[Feed[Any]]:
        return [feed for feed in self._feeds.values() if not feed.over]

    def _answer(self, answer: Answer) -> None:
        feed = self._feeds.get(answer.key)
        if feed is None or feed.over:
            return
        if isinstance(answer.event, Fault):
            feed.fail(frames.revive(answer.event))
            return
        try:
            self._take(feed, answer.event)
        except Exception:
            # It came through the connection that everybody's answers come through.
            log.exception("the answer to a request cannot be read")
            feed.fail(ServiceError("the engine's answer to this request cannot be read"))
            self._supervisor.send(Cancel(key=feed.key))

    async def _ask(self, key: int, order: Embed | Tokenize | Detokenize) -> Reply:
        for attempt in (1, 2):
            await self.load()
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._send(order)
            self._replies[key] = future
            try:
                reply = await future
            except EngineDied:
                if attempt == 2 or self.state in {"unloaded", "failed"}:
                    raise
                continue
            finally:
                self._replies.pop(key, None)
                if future.cancelled():
                    self._supervisor.send(Cancel(key=key))
            if reply.fault is not None:
                raise frames.revive(reply.fault)
            return reply
        raise EngineDied("the engine stopped while this request was running")

    def _send(self, order: Order) -> None:
        """Send what a client asked for; not all that Python holds can be sent."""
        try:
            self._supervisor.send(order)
        except UnicodeEncodeError as error:
            raise BadRequest("the request contains half a character (a lone surrogate)") from error
        except OverflowError as error:
            raise BadRequest("the request contains a number that is too large") from error

    def _drop_replies(self, error: ServiceError) -> None:
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)

    def _failure(self) -> EngineFailed:
        reason = self._supervisor.reason or "the engine was stopped"
        return EngineFailed(f"the engine cannot serve the model: {reason}", hint="see its log lines")
