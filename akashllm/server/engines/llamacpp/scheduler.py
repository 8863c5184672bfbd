"""Continuous batching: one decode step after another over all running sequences.

A step first takes one token of every sequence that is decoding, then fills up with pieces of prompts, so that
no request waits for another's answer or for another's long prompt.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from time import perf_counter, perf_counter_ns

import numpy as np

from akashllm.errors import ServiceError
from akashllm.server.domain import EngineStats
from akashllm.server.engines.frames import Answer, fault
from akashllm.server.engines.llamacpp.choosing import choose
from akashllm.server.engines.llamacpp.compose import TILE, whole_blocks
from akashllm.server.engines.llamacpp.context import ABORTED, CACHE_FULL, Context
from akashllm.server.engines.llamacpp.job import Choice, Job
from akashllm.server.engines.llamacpp.pool import Pool
from akashllm.server.engines.llamacpp.portions import MIN_CHUNK, Portions

HEADROOM = 32
"""Tokens of answer for which room must be in sight before a request is admitted."""


class DecodeError(Exception):
    """llama.cpp refused a step that should have been right, or failed in one."""


class Scheduler:
    """Everything that runs and waits in one context."""

    def __init__(
        self,
        context: Context,
        *,
        slots: int,
        sequences: int,
        ends: frozenset[int],
        whole: bool,
        echo_rows: int,
        micro_batch: int,
        tiled: bool,
        escorted: bool,
    ) -> None:
        self.context = context
        self.slots = slots
        # The last sequence is for a token that only keeps another one company.
        self._scratch = sequences - 1
        self.pool = Pool(context, sequences - 1, whole=whole)
        self._micro_batch = micro_batch
        self._escorted = escorted
        self._tiled = tiled and micro_batch >= TILE and not whole
        self._portions = Portions(
            self.pool, batch=context.batch.size, micro_batch=micro_batch, tiled=self._tiled, echo_rows=echo_rows
        )
        self._glance = False
        self._filler = min(ends, default=0)
        self.running: list[Choice] = []
        self.waiting: deque[Choice] = deque()
        self.step_began = 0.0
        self.step_tokens = 0
        self.stuck = False
        """The last step could do nothing: room is held by requests whose readers are slow."""
        self._ends = np.fromiter(sorted(ends), np.intp)
        self._age = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._steps = 0

    # --- orders ------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a request's choices."""
        job.unfinished = len(job.choices)
        self.waiting.extend(job.choices)

    def cancel(self, job: Job) -> None:
        """Forget a request; its slots are free at once."""
        job.over = True
        self.waiting = deque(choice for choice in self.waiting if choice.job is not job)
        for choice in [choice for choice in self.running if choice.job is job]:
            self._leave(choice)

    def only_prompt(self, job: Job) -> bool:
        """Whether the step that runs is long and for this request only; an estimate, from any thread."""
        running = list(self.running)
        return self.step_tokens >= MIN_CHUNK and len(running) == len(job.choices) and running[0].job is job

    def busy(self) -> bool:
        """Whether a step would do something."""
        if any(not choice.job.held for choice in self.running):
            return True
        return bool(self.waiting) and len(self.running) < self.slots

    def stats(self) -> EngineStats:
        """Counts since the start; safe to call from another thread."""
        return EngineStats(
            running=len(self.running),
            waiting=len(self.waiting),
            slots=self.slots,
            kv_used=self.pool.cells.used,
            kv_size=self.pool.cells.size,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            steps=self._steps,
        )

    # --- one step ----------------------------------------------------------------------------------------

    def step(self) -> list[Answer]:
        """Admit, decode, choose: the events of one step."""
        answers: list[Answer] = []
        self.stuck = True
        self._admit()
        decodes, prompts = self._sort()
        if not decodes and not prompts:
            return answers
        seeing = [choice for choice in prompts if choice.job.pictures and choice.sees()]
        if seeing:
            prompts = [choice for choice in prompts if choice not in seeing]
            self._glance = not self._glance
            if self._glance or not (decodes or prompts):
                self._look(seeing[0], answers)
                return answers
        if not self._make_room(len(decodes) + bool(prompts) + 1):
            return answers
        decodes = [choice for choice in decodes if choice.resident is not None]
        prompts = [choice for choice in prompts if choice.resident is not None]
        decodes, chunks = self._portions.deal(decodes, prompts)
        batch = self.context.batch
        batch.clear()
        if decodes:
            batch.decodes(
                [choice.plan[-1] for choice in decodes],
                [choice.last_position() for choice in decodes],
                [choice.resident.id for choice in decodes if choice.resident is not None],
            )
        rows = self._place_chunks(chunks)
        if not batch.count:
            return answers
        alone = self._escorted and batch.count == 1 and any(choice.exact for choice in self.running)
        if alone:
            batch.chunk((self._filler,), 0, self._scratch, last=False)
        began = self.step_began = perf_counter()
        self.step_tokens = batch.count
        self.stuck = False
        code = self.context.decode()
        self._steps += 1
        if alone:
            self.context.remove(self._scratch, 0)
        if code:
            self.step_tokens = 0
            self._failed(code, decodes + [choice for choice, _ in chunks], answers)
            return answers
        try:
            grow = self.pool.grow
            for choice in decodes:
                if choice.resident is not None:
                    grow(choice.resident, choice.plan[-1:])
            for choice, tokens in chunks:
                if choice.resident is not None:
                    grow(choice.resident, tokens)
            count = len(decodes) + rows
            if count:
                self._read(decodes, chunks, count, answers)
            if chunks:
                self._portions.measure(batch.count - len(decodes), len(decodes), perf_counter() - began)
        finally:
            self.step_tokens = 0
        return answers

    def _look(self, choice: Choice, answers: list[Answer]) -> None:
        """Evaluate the picture that is next in a prompt, or as much of it as one pass takes."""
        span = choice.sees()
        if span is None:
            return
        picture, have = span.picture, choice.have()
        done = have - span.start
        count = min(len(picture) - done, self._micro_batch) if picture.splits else len(picture)
        if not self._make_room(count + 1) or choice.resident is None:
            return
        places = np.ascontiguousarray(picture.places(choice.position(span.start))[:, done : done + count])
        self.step_began = perf_counter()
        self.step_tokens = count
        self.stuck = False
        embedding = picture.embedding[done : done + count]
        code = self.context.look(embedding, places, choice.resident.id, causal=picture.causal)
        self._steps += 1
        self.step_tokens = 0
        if code:
            self._failed(code, [choice], answers)
        else:
            self.pool.grow(choice.resident, choice.plan[have : have + count])

    def _sort(self) -> tuple[list[Choice], list[Choice]]:
        decodes: list[Choice] = []
        prompts: list[Choice] = []
        for choice in self.running:
            resident = choice.resident
            if choice.job.held or resident is None or choice.awaits_echo():
                continue
            if len(choice.plan) - len(resident.tokens) == 1 and choice.produced:
                decodes.append(choice)
            elif choice.follows is None or not self._waits(choice):
                prompts.append(choice)
        return decodes, prompts

    def _waits(self, choice: Choice) -> bool:
        """Whether another choice is still evaluating what this one needs; if not, take over what it has."""
        lead, resident = choice.follows, choice.resident
        if lead is None or resident is None:
            return False
        source = lead.resident
        if source is not None and not lead.job.held and len(source.tokens) < choice.until:
            return True
        choice.follows = None
        if source is None or len(source.tokens) < choice.until:
            # It ended, was put back or is paused: whoever has most by now will do.
            source = self.pool.best_source(resident)
        if source is not None:
            before = len(resident.tokens)
            self.pool.catch_up(resident, source, len(choice.plan) - 1, exact=choice.exact)
            self._count_cached(choice, before, len(resident.tokens))
        return False

    def _place_chunks(self, chunks: Sequence[tuple[Choice, array[int]]]) -> int:
        """Put the pieces into the batch; how many rows of logits they give."""
        rows = 0
        for choice, tokens in chunks:
            resident = choice.resident
            if resident is None:
                continue
            have = len(resident.tokens)
            every = choice.echoes()
            last = have + len(tokens) == len(choice.plan)
            self.context.batch.chunk(tokens, choice.position(have), resident.id, last=last, every=every)
            rows += len(tokens) if every else last
        return rows

    # --- logits ------------------------------------------------------------------------------------------

    def _read(
        self,
        decodes: list[Choice],
        chunks: Sequence[tuple[Choice, array[int]]],
        count: int,
        answers: list[Answer],
    ) -> None:
        logits = self.context.logits(count)
        ready: list[tuple[Choice, int]] = list(zip(decodes, range(len(decodes)), strict=True))
        row = len(decodes)
        for choice, tokens in chunks:
            done = choice.have() == len(choice.plan)
            if choice.echoes():
                choice.job.score_prompt(logits[row : row + len(tokens)])
                row += len(tokens)
            elif done:
                row += 1
            if done:
                self._prompt_done(choice, answers)
                ready.append((choice, row - 1))
        for choice, token in choose(ready, logits, self._ends):
            if isinstance(token, ServiceError):
                self.fail(choice.job, token, answers)
            else:
                self._take(choice, token, answers)

    def _take(self, choice: Choice, token: int, answers: list[Answer]) -> None:
        if choice.job.over:
            return
        self._completion_tokens += 1
        reason = choice.advance(token, answers)
        if reason is not None:
            choice.finish(reason, answers)
            self._leave(choice)
            job = choice.job
            job.unfinished -= 1
            if not job.unfinished:
                job.end(answers, choice)
        elif len(choice.plan) > choice.job.limit:
            self._shift(choice)

    def _shift(self, choice: Choice) -> None:
        """The context is full and the request goes on: forget the older half of what may be forgotten."""
        limit = choice.job.limit
        keep = max(0, min(choice.job.request.num_keep, limit - 2))
        discard = max(1, (len(choice.plan) - keep) // 2)
        resident = choice.resident
        if resident is not None:
            self.pool.shift(resident, keep, discard)
        del choice.plan[keep : keep + discard]

    def _prompt_done(self, choice: Choice, answers: list[Answer]) -> None:
        job = choice.job
        if not job.started:
            self._prompt_tokens += len(job.prompt)
            self._cached_tokens += job.cached or 0
            job.start(answers)

    # --- who runs ----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            choice = self.waiting[0]
            need = len(choice.plan) - self.pool.expected(choice.plan)
            need += min(HEADROOM, choice.most - choice.produced if choice.most >= 0 else HEADROOM)
            if self.running and need > self.pool.reach():
                return
            self.waiting.popleft()
            job = choice.job
            if choice.echoes():
                job.echo.clear()
            if choice.exact and self._tiled and not self.running:
                self.pool.start_over(choice.plan)
            choice.blocks = whole_blocks(_text(choice)) if self._tiled and not choice.echoes() else 0
            resident, ahead, until = self.pool.acquire(
                choice,
                choice.plan,
                share=not choice.echoes(),
                blocks=choice.blocks,
                exact=choice.exact,
                pictures=job.pictures,
            )
            choice.resident, choice.until = resident, until
            choice.follows = ahead.owner if ahead is not None else None
            self._age += 1
            choice.age = self._age
            if not job.admitted:
                job.admitted = perf_counter_ns()
            self._count_cached(choice, 0, len(resident.tokens))
            self.running.append(choice)

    def _count_cached(self, choice: Choice, before: int, after: int) -> None:
        job = choice.job
        if choice.index == 0 and not job.started:
            job.cached = (job.cached or 0) + after - before

    def _leave(self, choice: Choice) -> None:
        if choice in self.running:
            self.running.remove(choice)
        resident, choice.resident = choice.resident, None
        if resident is not None:
            self.pool.release(resident)
            self.pool.tidy(running=len(self.running))

    def _make_room(self, cells: int) -> bool:
        """Cells for the sequences that decode: idle ones go first, then the youngest goes back to the queue."""
        while not self.pool.reserve(cells):
            if not self._preempt():
                return False
        return True

    def _preempt(self) -> bool:
        if len(self.running) < 2:
            return False
        youngest = max(self.running, key=lambda choice: choice.age)
        self.running.remove(youngest)
        resident, youngest.resident, youngest.follows = youngest.resident, None, None
        if resident is not None:
            self.pool.release(resident)
        self.waiting.appendleft(youngest)
        return True

    def fail(self, job: Job, error: ServiceError, answers: list[Answer]) -> None:
        """End a request with an error."""
        if not job.over:
            self.cancel(job)
            answers.append(Answer(job.key, fault(error)))

    def _failed(self, code: int, choices: list[Choice], answers: list[Answer]) -> None:
        """A step gave no result: take back what may be half done, then give way, go on, or give up."""
        for choice in choices:
            if choice.resident is not None:
                self.pool.truncate(choice.resident, len(choice.resident.tokens))
        if code == ABORTED:
            self.context.resume()
        elif code == CACHE_FULL:
            if not self.pool.evict() and not self._preempt():
                error = ServiceError("the key-value cache of the engine is full", hint="send a shorter prompt")
                for choice in choices:
                    self.fail(choice.job, error, answers)
        elif code == -1:
            for choice in choices:
                self.fail(choice.job, ServiceError("the engine refused the tokens of this request"), answers)
        else:
            message = f"llama_decode failed with {code}"
            raise DecodeError(message)


def _text(choice: Choice) -> int:
    """Tokens of a plan before its first picture."""
    pictures = choice.job.pictures
    return pictures[0].start if pictures else len(choice.plan)
