"""The engine as the child uses it: every order in terms of vLLM's client. Lives on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from vllm.exceptions import VLLMClientError

from akashllm.errors import BadRequest, ServiceError, Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    Done,
    Embedding,
    EngineStats,
    Event,
    Generation,
    ModelInfo,
    Sampling,
    TextPrompt,
    Transcription,
)
from akashllm.server.engines.blame import ORDER
from akashllm.server.engines.frames import Detokenize, Embed, Load, Reply, Tokenize
from akashllm.server.engines.inputs import token_lists
from akashllm.server.engines.prompts import slow
from akashllm.server.engines.vllm import launch
from akashllm.server.engines.vllm.answering import Answering
from akashllm.server.engines.vllm.clock import Clock
from akashllm.server.engines.vllm.embedding import embed
from akashllm.server.engines.vllm.launch import Refusal
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.prepare import Preparer
from akashllm.server.engines.vllm.reading import Readers
from akashllm.server.engines.vllm.refused import refusal
from akashllm.server.engines.vllm.rendering import prompts_for
from akashllm.server.engines.vllm.stats import Counts
from akashllm.server.engines.vllm.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_PREPARERS = 2


class Serving:
    """Answers orders over a running engine. Raises `Refusal` if the options do not fit the model."""

    def __init__(
        self,
        engine: Any,
        counts: Counts,
        vocabulary: Vocabulary,
        info: ModelInfo,
        options: Options,
    ) -> None:
        self._engine = engine
        self._counts = counts
        self._vocabulary = vocabulary
        self.info = info
        prompts = prompts_for(engine, vocabulary, info.metadata, options)
        self._preparer = Preparer(vocabulary, prompts, info.context)
        try:
            self._readers = Readers(options, engine.renderer.get_tokenizer(), engine.model_config)
        except ValueError as error:
            raise Refusal(f"vLLM's parser cannot be used: {error}", fault=ORDER) from error
        self._adapters = launch.adapters(options)
        self._embeds = info.capabilities == ("embedding",)
        self._running: dict[int, Answering] = {}
        self._quick = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare")
        self._patient = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare slowly")
        self.clock = Clock()

    @classmethod
    async def over(cls, engine: Any, counts: Counts, order: Load, options: Options, vram: int) -> Serving:
        """Get to know what `engine` runs in `vram` bytes of GPU memory. Raises `Refusal`."""
        tasks = await engine.get_supported_tasks()
        if "transcription" in tasks and "generate" not in tasks:
            raise Refusal("this model transcribes speech: set AKASHLLM_TASK=transcribe", fault=ORDER)
        embeds = "generate" not in tasks
        if embeds and "embed" not in tasks:
            raise Refusal(
                f"this model neither generates text nor embeds it (vLLM says: {', '.join(tasks)})", fault=ORDER
            )
        vocabulary = launch.vocabulary_of(engine)
        info = launch.information(order, engine, vocabulary, embeds=embeds, vram=vram)
        return cls(engine, counts, vocabulary, info, options)

    async def warm_up(self) -> None:
        """Real answers, so that ready means ready: the first of each kind takes seconds. Raises `Refusal`."""
        if self._embeds:
            await embed(self._engine, Embedding(id="warm-up", model="", inputs=("Hello",)), [[1, 2, 3]])
            return
        told: list[Event] = []
        request = Generation(
            id="warm-up",
            model="",
            prompt=TextPrompt(text="Hello"),
            sampling=Sampling(temperature=0.0),
            max_tokens=1,
            logprobs=1,
        )
        await self.generate(0, request, told.append)
        if not any(isinstance(event, Done) and event.usage.completion_tokens for event in told):
            raise Refusal("the model loads but does not produce a token")
        shaped = msgspec.structs.replace(request, constraint=Constraint(kind="json_object"))
        try:
            await self.generate(0, shaped, told.append)
        except (ServiceError, VLLMClientError) as error:
            log.warning("structured output does not work with this model: %s", error)

    async def generate(self, key: int, request: Generation, emit: Callable[[Event], None]) -> None:
        """Answer a request; its last event is `Done`. Cancelling this aborts it."""
        if self._embeds:
            raise Unsupported("this model makes embeddings and does not generate text")
        helpers = self._patient if slow(request) else self._quick
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(helpers, partial(self._prepare, request))
        answering = Answering(
            request,
            prepared,
            engine=self._engine,
            preparer=self._preparer,
            readers=self._readers,
            vocabulary=self._vocabulary,
            adapter=self._adapters.get(request.model),
            emit=partial(self._hear, emit),
        )
        self._running[key] = answering
        self.clock.expect(key, len(prepared.tokens))
        try:
            await answering.run()
        except VLLMClientError as error:
            if prepared.structured is None:
                raise
            message = f"the constraint cannot be used: {self.refusal(error)}"
            raise BadRequest(message, hint="simplify the schema or grammar", param="constraint") from error
        finally:
            self.clock.drop(key)
            del self._running[key]

    async def transcribe(self, request: Transcription, emit: Callable[[Any], None]) -> None:
        """Refused."""
        del request, emit
        raise Unsupported("this model does not transcribe speech", param="model")

    async def embed(self, order: Embed) -> Reply:
        """Vectors. Raises `Unsupported` where vLLM was started to generate."""
        if not self._embeds:
            raise Unsupported(
                "this engine generates text and does not make embeddings",
                hint="start another service with AKASHLLM_TASK=embed, or with a model for embeddings",
                param="input",
            )
        loop = asyncio.get_running_loop()
        inputs = await loop.run_in_executor(
            self._patient,
            partial(
                token_lists,
                order.request,
                self._vocabulary,
                limit=self.info.context,
                width=self.info.embedding_length,
            ),
        )
        self.clock.expect(order.key, sum(map(len, inputs)))
        try:
            found = await embed(self._engine, order.request, inputs)
        finally:
            self.clock.drop(order.key)
            self.clock.hear()
        return Reply(key=order.key, embeddings=found)

    async def tokenize(self, order: Tokenize) -> Reply:
        """Token ids."""
        work = partial(self._vocabulary.tokenize, order.text, special=order.special, bos=order.bos)
        tokens = await asyncio.get_running_loop().run_in_executor(self._quick, work)
        return Reply(key=order.key, tokens=tuple(tokens))

    async def detokenize(self, order: Detokenize) -> Reply:
        """Text."""
        work = partial(self._vocabulary.detokenize, order.tokens)
        return Reply(key=order.key, text=await asyncio.get_running_loop().run_in_executor(self._quick, work))

    def hold(self, key: int, *, on: bool) -> None:
        """Stop or go on handing out what a request makes."""
        answering = self._running.get(key)
        if answering is not None:
            answering.hold(on=on)
            if on:
                self.clock.drop(key)
            else:
                self.clock.expect(key, len(answering.prepared.tokens))

    @property
    def dead(self) -> bool:
        """Whether the engine's core is gone."""
        return bool(self._engine.errored)

    def refusal(self, error: Exception) -> str | None:
        """VLLM's words if it refused the request; None if the fault is not the client's."""
        return refusal(error)

    def stats(self) -> EngineStats:
        """The engine's counts."""
        return self._counts.stats()

    def _prepare(self, request: Generation) -> Any:
        prepared = self._preparer.prepare(request)
        prompt, form = request.prompt, prepared.form
        if isinstance(prompt, ChatPrompt) and form is not None and self._readers.vllm_reads(prompt, form):
            return prepared.seen(special=not self._readers.hides_special(prompt))
        return prepared

    def _hear(self, emit: Callable[[Event], None], event: Event) -> None:
        self.clock.hear()
        emit(event)
