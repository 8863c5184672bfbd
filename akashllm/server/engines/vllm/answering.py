"""A request inside the child: its choices run side by side in vLLM and give events in this service's words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest

from akashllm.errors import BadRequest, ServiceError
from akashllm.server.domain import (
    Alternative,
    ChatPrompt,
    Delta,
    Done,
    Event,
    Finish,
    FinishReason,
    Generation,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from akashllm.server.engines.answer import AnswerReader
from akashllm.server.engines.text import StopScanner
from akashllm.server.engines.vllm.prepare import Prepared, Preparer
from akashllm.server.engines.vllm.reading import Readers, VllmReader
from akashllm.server.engines.vllm.vocabulary import Vocabulary

_NS = 1_000_000_000


class Answering:
    """One request. `emit` takes its events in order; `run` ends with `Done`, or raises."""

    def __init__(
        self,
        request: Generation,
        prepared: Prepared,
        *,
        engine: Any,
        preparer: Preparer,
        readers: Readers,
        vocabulary: Vocabulary,
        adapter: LoRARequest | None,
        emit: Callable[[Event], None],
    ) -> None:
        self.request = request
        self.prepared = prepared
        self.vocabulary = vocabulary
        self.emit = emit
        self._engine = engine
        self._preparer = preparer
        self._readers = readers
        self._adapter = adapter
        self._opened = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._cached = 0
        self._queued = 0
        self._began = perf_counter_ns()
        self._first = 0
        self.produced = 0
        self.history: list[int] = []

    def hold(self, *, on: bool) -> None:
        """Stop or go on taking what vLLM makes; it makes more meanwhile, up to the request's limit."""
        if on:
            self._go.clear()
        else:
            self._go.set()

    async def run(self) -> None:
        """Answer. Closing vLLM's generators, which cancelling does, aborts what is not done."""
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self.request.n):
                    group.create_task(self._answer(index))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        now = perf_counter_ns()
        prompt = max(0, self._first - self._began - self._queued)
        self.emit(
            Done(
                usage=Usage(
                    prompt_tokens=len(self.prepared.tokens),
                    completion_tokens=self.produced,
                    cached_tokens=self._cached,
                ),
                timings=Timings(queue=self._queued, prompt=prompt, decode=now - self._first),
                context=(*self.prepared.tokens, *self.history) if self.request.want_context else (),
            )
        )

    async def _answer(self, index: int) -> None:
        if index:
            # The first has brought the prompt into the prefix cache by then.
            await self._opened.wait()
        choice = Choice(self, index, self._reader())
        outputs = self._engine.generate(
            tokens_input(self.prepared.tokens),
            self._preparer.parameters(self.request, self.prepared, index),
            f"{self.request.id}-{index}",
            lora_request=self._adapter,
        )
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                self._open(output)
                await self._go.wait()
                if any(choice.take(part) for part in output.outputs):
                    break
        choice.finish()

    def _reader(self) -> _Reading | None:
        prompt, form = self.request.prompt, self.prepared.form
        if not isinstance(prompt, ChatPrompt) or form is None:
            return None
        parser = self._readers.reader(prompt, form, self.prepared.tail, self.prepared.tokens)
        return _Reading(parser)

    def _open(self, output: Any) -> None:
        if self._opened.is_set():
            return
        self._opened.set()
        self._first = perf_counter_ns()
        self._cached = output.num_cached_tokens or 0
        metrics = output.metrics
        if metrics is not None and metrics.scheduled_ts and metrics.queued_ts:
            self._queued = max(0, round((metrics.scheduled_ts - metrics.queued_ts) * _NS))
        echo: tuple[TokenLogprob, ...] = ()
        if self.request.prompt_logprobs is not None:
            echo = tuple(
                self.entry(token, found, self.request.prompt_logprobs)
                for token, found in zip(self.prepared.tokens, output.prompt_logprobs or (), strict=False)
            )
        self.emit(Started(prompt_tokens=len(self.prepared.tokens), cached_tokens=self._cached, prompt=echo))

    def entry(self, token: int, found: Mapping[int, Any] | None, wanted: int) -> TokenLogprob:
        """A log probability with the `wanted` most likely alternatives; the first of a prompt has none."""
        spelled = self.vocabulary.spelled
        if not found:
            return TokenLogprob(token=token, data=spelled[token], logprob=float("nan"))
        likely = sorted((one.rank or 0, other) for other, one in found.items() if (one.rank or 0) <= wanted)
        return TokenLogprob(
            token=token,
            data=spelled[token],
            logprob=found[token].logprob,
            top=tuple(
                Alternative(token=other, data=spelled[other], logprob=found[other].logprob)
                for _, other in likely
            ),
        )


class _Reading:
    """What reads a chat's answer, with the counts kept right."""

    def __init__(self, parser: Any) -> None:
        self._vllm = parser if isinstance(parser, VllmReader) else None
        self._reader = AnswerReader(parser)

    def delta(self, event: Delta, tokens: list[int]) -> list[Event]:
        if self._vllm is not None:
            self._vllm.note(tokens)
        return self._reader.delta(event)

    def finish(self, event: Finish) -> list[Event]:
        return self._reader.finish(event)


class Choice:
    """One answer: cuts at stop strings, keeps log probabilities beside their text, says how it ended."""

    def __init__(self, job: Answering, index: int, reading: _Reading | None) -> None:
        self._job = job
        self._index = index
        self._reading = reading
        self._scanner = StopScanner(job.prepared.stops)
        self._reason: FinishReason | None = None
        self._seen = 0
        self._emitted = 0
        self._pending = 0
        self._fresh: list[int] = []
        self._score = 0.0
        self._tokens: list[int] = []
        self._logprobs: list[tuple[int, TokenLogprob]] = []

    def take(self, part: Any) -> bool:
        """Take what vLLM made since the last time; whether that was all."""
        job = self._job
        if job.request.max_tokens == 0:
            # Only the prompt was asked about; vLLM makes one token at least.
            self._reason = "length"
            return True
        tokens = list(part.token_ids)
        text = self._visible(part.text, tokens)
        self._note(tokens, part.logprobs)
        self._tokens += tokens
        self._fresh += tokens
        self._pending += len(tokens)
        job.produced += len(tokens)
        self._seen += len(text)
        shown = self._scanner.feed(text)
        if part.finish_reason is not None and self._scanner.found is None:
            shown += self._scanner.flush()
        if shown:
            self._emit(shown)
        if self._scanner.found is not None:
            self._reason = "stop"
        elif part.finish_reason is not None:
            self._reason = _reason(part.finish_reason, shaped=self._job.prepared.structured is not None)
        return self._reason is not None

    def finish(self) -> None:
        """Give the rest and the reason."""
        job = self._job
        if self._reason is None:
            raise ServiceError("the engine ended this answer without a reason", hint="send it again")
        if self._pending or self._logprobs:
            self._emit("")
        found = self._scanner.found
        end = Finish(
            index=self._index,
            reason=self._reason,
            stop=found if found in job.request.stop else None,
            score=self._score if job.request.score else None,
        )
        for event in self._reading.finish(end) if self._reading is not None else (end,):
            job.emit(event)
        job.history = self._tokens

    def _visible(self, text: str, tokens: list[int]) -> str:
        """The text without control tokens, where only some of them are there for the parser to see."""
        for token in tokens:
            if token in self._job.prepared.hidden:
                text = text.replace(self._job.vocabulary.text(token), "", 1)
        return text

    def _note(self, tokens: list[int], found: list[Mapping[int, Any]] | None) -> None:
        """Remember the log probabilities; the end of an answer has one that is not shown."""
        job = self._job
        if not found:
            return
        wanted = job.request.logprobs
        endless = job.request.ignore_eos and job.prepared.structured is None
        ends = () if endless else job.vocabulary.ends
        for token, entries in zip(tokens, found, strict=False):
            self._score += entries[token].logprob
            if wanted is not None and token not in ends:
                self._logprobs.append((self._seen, job.entry(token, entries, wanted)))

    def _emit(self, text: str) -> None:
        self._emitted += len(text)
        # A token belongs to the text if it begins in it; what may become a stop string waits.
        shown = sum(start < self._emitted for start, _ in self._logprobs)
        logprobs = tuple(entry for _, entry in self._logprobs[:shown])
        del self._logprobs[:shown]
        event = Delta(index=self._index, text=text, tokens=self._pending, logprobs=logprobs)
        self._pending = 0
        tokens, self._fresh = self._fresh, []
        for seen in self._reading.delta(event, tokens) if self._reading is not None else (event,):
            self._job.emit(seen)


def _reason(word: str, *, shaped: bool) -> FinishReason:
    match word:
        case "error" if shaped:
            # vLLM's core could not compile it, or lost its way in it.
            raise BadRequest(
                "the constraint cannot be followed",
                hint="simplify the schema or grammar",
                param="constraint",
            )
        case "stop":
            return "stop"
        case "length":
            return "length"
        case "abort":
            return "cancelled"
        case _:
            raise ServiceError(f"the engine ended this answer early ({word})", hint="send it again")
