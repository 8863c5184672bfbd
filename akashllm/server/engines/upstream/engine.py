"""Any server that speaks OpenAI's or Ollama's dialect, as an engine behind our guard and both our dialects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from akashllm.errors import BadRequest, EngineFailed, ServiceError
from akashllm.server.domain import (
    ChatPrompt,
    Done,
    Embedding,
    Embeddings,
    EngineStats,
    Event,
    Generation,
    Message,
    ModelInfo,
    TextPrompt,
    TokenPrompt,
)
from akashllm.server.engines.upstream import fitting
from akashllm.server.engines.upstream.dialect import Dialect, Known
from akashllm.server.engines.upstream.discovery import Wish, discover, loaded
from akashllm.server.engines.upstream.faults import OVERFLOW, blame, garbage
from akashllm.server.engines.upstream.link import Link, Unreachable, objects, payloads
from akashllm.server.engines.upstream.ollama import OllamaDialect
from akashllm.server.engines.upstream.openai import OpenAIDialect
from akashllm.server.engines.upstream.payload import entries, text
from akashllm.server.engines.upstream.presence import INTERVAL, LOOK, PATIENCE, Presence
from akashllm.server.engines.upstream.several import several
from akashllm.server.engines.upstream.stopwatch import Stopwatch
from akashllm.server.engines.upstream.vocabulary import Vocabulary

log = logging.getLogger("akashllm.engine")

_ATTEMPTS = 8
_DRAIN = 1.0


class UpstreamEngine(Presence):
    """Implements `akashllm.server.engine.Engine` over HTTP.

    url      where the upstream answers, without `/v1` or `/api`
    model    what it calls the model; empty: the first it lists
    dialect  openai, ollama, or auto
    context  tokens one request may use; 0: what the upstream allows

    `ready` means that a token came out. An upstream that goes away makes the state `failed` with the reason;
    it is looked for until it is back, and then the state is `ready` again without anybody asking.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        model: str = "",
        key: str | None = None,
        dialect: str = "auto",
        context: int = 0,
        slots: int = 8,
        patience: float = PATIENCE,
        interval: float = INTERVAL,
        link: Link | None = None,
    ) -> None:
        super().__init__(link or Link(url, key), patience=patience, interval=interval)
        self._wish = Wish(name=name, model=model, dialect=dialect, context=context, slots=slots)
        self._info = ModelInfo(name=name, format="", context=context, slots=slots)
        self._known: Known | None = None
        self._dialect: Dialect | None = None
        self._spelling: Vocabulary | None = None
        self._stats = EngineStats(slots=slots)

    # --- the Engine protocol -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Which engine this is."""
        return "upstream"

    @property
    def info(self) -> ModelInfo:
        """The model, as the upstream describes it."""
        return self._info

    @property
    def digest(self) -> str | None:
        """Of the model, if the upstream tells."""
        return self._known.digest if self._known is not None else None

    @property
    def flavour(self) -> str:
        """Which server the upstream turned out to be; empty before it was reached."""
        return self._known.flavour if self._known is not None else ""

    async def unload(self) -> None:
        """Have Ollama give the memory back; other upstreams keep their model whatever is said."""
        await self._leave()
        if self._known is not None and self._known.flavour == "ollama":
            body = {"model": self._known.model, "keep_alive": 0}
            try:
                await self._link.ask("POST", "/api/generate", body, within=LOOK)
            except ServiceError as error:
                log.warning("the upstream did not unload the model: %s", error.message)
        self._set("unloaded", "")

    async def close(self) -> None:
        """Close every connection."""
        await self._leave()
        await self._link.close()
        self._set("unloaded", "")

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """The events of one request; closing the iterator closes the connection, which cancels it upstream."""
        dialect = await self._ready()
        if isinstance(request.prompt, TokenPrompt) and not dialect.takes_tokens:
            spelled = (await self._vocabulary("prompt")).prompt(request.prompt.tokens)
            request = msgspec.structs.replace(request, prompt=TextPrompt(text=spelled))
        one_by_one = request.n > 1 and not dialect.choices
        source = several(request, self._answer) if one_by_one else self._answer(request)
        self._count(running=1)
        try:
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    if isinstance(event, Done):
                        usage = event.usage
                        self._count(
                            prompt_tokens=usage.prompt_tokens,
                            cached_tokens=usage.cached_tokens,
                            completion_tokens=usage.completion_tokens,
                        )
                    yield event
        finally:
            self._count(running=-1)

    async def embed(self, request: Embedding) -> Embeddings:
        """One vector an input. Dimensions are cut and lengths made 1 here, whatever the upstream can."""
        dialect = await self._ready()
        asked = request
        if not dialect.takes_tokens and not all(isinstance(one, str) for one in request.inputs):
            vocabulary = await self._vocabulary("input")
            texts = tuple(one if isinstance(one, str) else vocabulary.content(one) for one in request.inputs)
            asked = msgspec.structs.replace(request, inputs=texts)
        for _ in range(_ATTEMPTS):
            path, body = dialect.embedding(asked)
            try:
                answer = await self._link.ask("POST", path, body)
                break
            except BadRequest as error:
                shorter = fitting.shorter_inputs(asked, error) if error.code == OVERFLOW else None
                if shorter is None:
                    raise
                asked = shorter
            except ServiceError as error:
                self._notice(error)
                raise
        else:
            raise BadRequest("the input is too long, even when it is cut", code=OVERFLOW, param="input")
        found = dialect.embeddings(answer)
        sizes = {len(vector) for vector in found.vectors}
        if len(found.vectors) != len(request.inputs) or len(sizes) > 1 or 0 in sizes:
            raise garbage(f"{len(found.vectors)} vectors for {len(request.inputs)} inputs")
        return await asyncio.to_thread(fitting.finished, found, request)

    async def tokenize(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`, where the upstream has a route for that."""
        dialect = await self._ready()
        path, body = dialect.tokens(text, special=special, bos=bos)
        answer = await self._link.ask("POST", path, body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise garbage("tokens that are no list of numbers")
        return tokens

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of `tokens`, where the upstream has a route for that."""
        dialect = await self._ready()
        if not dialect.takes_tokens:
            return (await self._vocabulary("prompt")).text(tokens)
        path, body = dialect.text(tokens)
        size = self._info.vocab_size
        if any(token < 0 or (size and token >= size) for token in tokens):
            raise BadRequest(f"a token id is outside the vocabulary of {size}")
        answer = await self._link.ask("POST", path, body)
        if not isinstance(answer, dict):
            raise garbage("a text that is no object")
        choice = next(iter(entries(answer.get("choices"))), {})
        return text(answer.get("content")) or text(answer.get("prompt")) or text(choice.get("text"))

    def stats(self) -> EngineStats:
        """What passes through; what the upstream does besides is not known."""
        return msgspec.structs.replace(self._stats, restarts=self.losses)

    async def _vocabulary(self, param: str) -> Vocabulary:
        """The model's tokens, asked for at the first use: some megabytes."""
        if self._spelling is None and self._known is not None:
            shown = await self._link.ask("POST", "/api/show", {"model": self._known.model, "verbose": True})
            header = shown.get("model_info") if isinstance(shown, dict) else None
            self._spelling = Vocabulary(header if isinstance(header, dict) else {}, param)
        if self._spelling is None:
            raise EngineFailed("the upstream was never reached")
        return self._spelling

    # --- one request ---------------------------------------------------------------------------------------

    async def _ready(self) -> Dialect:
        await self.load()
        if self._dialect is None:
            raise EngineFailed("the upstream was never reached")
        return self._dialect

    async def _answer(self, request: Generation) -> AsyncGenerator[Event]:
        """One answer, with the oldest messages dropped where that is wanted and the upstream cannot do it.

        A request that did not reach the upstream is sent once more, if the upstream can be had again.
        """
        lost = False
        for _ in range(_ATTEMPTS):
            began = False
            try:
                async with contextlib.aclosing(self._once(request)) as events:
                    async for event in events:
                        began = True
                        yield event
            except BadRequest as error:
                fewer = None if began or error.code != OVERFLOW else fitting.fewer_messages(request, error)
                if fewer is None:
                    raise
                request = fewer
            except Unreachable:
                if began or lost:
                    raise
                lost = True
                await self.load()
            else:
                return
        raise BadRequest("the messages do not fit the context, even without the oldest", code=OVERFLOW)

    async def _once(self, request: Generation) -> AsyncGenerator[Event]:
        dialect = self._dialect
        if dialect is None:
            raise EngineFailed("the upstream was never reached")
        asked = dialect.ask(request)
        reader = asked.reader
        watch = Stopwatch()
        try:
            async with contextlib.aclosing(self._link.lines(asked.path, asked.body)) as lines:
                source = payloads(lines) if asked.events else objects(lines)
                async with contextlib.aclosing(source) as parts:
                    async for part in parts:
                        for event in reader.feed(part):
                            watch.see(event)
                            yield event
                        if reader.over:
                            break
                    for event in reader.end():
                        yield watch.timed(event)
                    # A connection that is read to its end serves the next request too.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_DRAIN):
                            async for _ in parts:
                                pass
        except ServiceError as error:
            if isinstance(error, BadRequest):
                blame(error, request)
            self._notice(error)
            raise

    def _count(self, **changes: int) -> None:
        values = {name: getattr(self._stats, name) + change for name, change in changes.items()}
        self._stats = msgspec.structs.replace(self._stats, **values)

    # --- coming and going ----------------------------------------------------------------------------------

    def _sign(self) -> str:
        return "/api/version" if self.flavour == "ollama" else "/v1/models"

    async def _connect(self) -> None:
        """Find out what it is, and have it say one token."""
        known = await discover(self._link, self._wish)
        self._take(known)
        if self._state != "failed":
            self._set("loading", "waiting for a first token")
        embeds = await self._embeds()
        try:
            await self._speak()
        except BadRequest:
            if not embeds:
                raise
            self._info = msgspec.structs.replace(self._info, capabilities=("embedding",))
        if known.flavour == "ollama":
            changes = {key: value for key, value in (await loaded(self._link, known)).items() if value}
            self._info = msgspec.structs.replace(self._info, **changes)
        self._take(msgspec.structs.replace(known, info=self._info))
        self._set("ready", "", 100.0)

    def _take(self, known: Known) -> None:
        self._dialect = OllamaDialect(known) if known.flavour == "ollama" else OpenAIDialect(known)
        self._known = known
        self._spelling = None
        self._info = known.info

    async def _embeds(self) -> bool:
        """Whether it makes embeddings: told, or tried. Ollama is not asked: it would load the model twice."""
        info, known = self._info, self._known
        if known is None or self._dialect is None or known.flavour in {"ollama", "akashllm"}:
            return "embedding" in info.capabilities
        path, body = self._dialect.embedding(Embedding(id="probe", model=info.name, inputs=("a",)))
        try:
            found = self._dialect.embeddings(await self._link.ask("POST", path, body))
        except Unreachable:
            raise
        except ServiceError:
            return False
        if found.vectors:
            self._info = msgspec.structs.replace(
                info,
                capabilities=(*info.capabilities, "embedding"),
                embedding_length=len(found.vectors[0]),
            )
        return bool(found.vectors)

    async def _speak(self) -> None:
        """One token of an answer."""
        prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), think=False)
        if "thinking" not in self._info.capabilities:
            prompt = msgspec.structs.replace(prompt, think=None)
        request = Generation(id="probe", model=self._info.name, prompt=prompt, max_tokens=1)
        async with contextlib.aclosing(self._once(request)) as events:
            async for _ in events:
                pass
