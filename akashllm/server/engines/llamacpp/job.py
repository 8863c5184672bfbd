"""A request inside the child: its choices, their text, and the events they give."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from akashllm.server.domain import (
    Alternative,
    Delta,
    Done,
    Finish,
    FinishReason,
    Generation,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from akashllm.server.engines.frames import Answer, Opened
from akashllm.server.engines.llamacpp.constraint import Guide
from akashllm.server.engines.llamacpp.pictures import Span, position
from akashllm.server.engines.llamacpp.prefix import Resident
from akashllm.server.engines.llamacpp.sampling import Row, Sampler, log_softmax, most_likely
from akashllm.server.engines.text import TextStream


@dataclass(eq=False, slots=True)
class Job:
    """One request. `limit` is the tokens a choice of it may have in the cache."""

    key: int
    request: Generation
    prompt: array[int]
    limit: int
    pieces: Sequence[bytes]
    spelled: Sequence[bytes]
    ends: frozenset[int]
    stops: tuple[str, ...] = ()
    tail: str | None = None
    pictures: tuple[Span, ...] = ()
    held: bool = False
    over: bool = False
    choices: list[Choice] = field(default_factory=list)
    unfinished: int = 0
    started: bool = False
    cached: int | None = None
    produced: int = 0
    echo: list[TokenLogprob] = field(default_factory=list)
    submitted: int = field(default_factory=perf_counter_ns)
    admitted: int = 0
    first: int = 0

    def logprob(self, token: int, value: float, top: Sequence[int], values: Sequence[float]) -> TokenLogprob:
        """A log probability with its alternatives, best first."""
        spelled = self.spelled
        return TokenLogprob(
            token=token,
            data=spelled[token],
            logprob=value,
            top=tuple(
                Alternative(token=other, data=spelled[other], logprob=other_value)
                for other, other_value in zip(top, values, strict=False)
            ),
        )

    def score_prompt(self, rows: Row) -> None:
        """Log probabilities of the next of the prompt's tokens: each row speaks of the token after it."""
        wanted = self.request.prompt_logprobs or 0
        if not self.echo:
            first = self.prompt[0]
            self.echo.append(TokenLogprob(token=first, data=self.spelled[first], logprob=float("nan")))
        for row in rows:
            place = len(self.echo)
            if place >= len(self.prompt):
                return
            token = self.prompt[place]
            top = most_likely(row, wanted)
            values = log_softmax(row, np.append(top, token)).tolist()
            self.echo.append(self.logprob(token, values[-1], top.tolist(), values))

    def start(self, answers: list[Answer]) -> None:
        """Say that the prompt is done, once."""
        if self.started:
            return
        self.started = True
        self.first = perf_counter_ns()
        if self.tail is not None:
            answers.append(Answer(self.key, Opened(tail=self.tail)))
        answers.append(
            Answer(
                self.key,
                Started(
                    prompt_tokens=len(self.prompt), cached_tokens=self.cached or 0, prompt=tuple(self.echo)
                ),
            )
        )

    def end(self, answers: list[Answer], last: Choice) -> None:
        """Say that all choices are finished."""
        self.over = True
        now = perf_counter_ns()
        answers.append(
            Answer(
                self.key,
                Done(
                    usage=Usage(
                        prompt_tokens=len(self.prompt),
                        completion_tokens=self.produced,
                        cached_tokens=self.cached or 0,
                    ),
                    timings=Timings(
                        queue=self.admitted - self.submitted,
                        prompt=self.first - self.admitted,
                        decode=now - self.first,
                    ),
                    context=tuple(last.history()) if self.request.want_context else (),
                ),
            )
        )


class Choice:
    """One of a request's answers. `plan` is every token that has to be in the cache, the newest last."""

    __slots__ = (
        "_emitted",
        "_logprobs",
        "_pending",
        "_skew",
        "_stream",
        "_unplanned",
        "age",
        "blocks",
        "exact",
        "follows",
        "guide",
        "index",
        "job",
        "logprobs",
        "most",
        "plain",
        "plan",
        "produced",
        "resident",
        "sampler",
        "score",
        "until",
        "untouched",
    )

    def __init__(self, job: Job, index: int, sampler: Sampler, guide: Guide | None) -> None:
        request = job.request
        self.job = job
        self.index = index
        self.sampler = sampler
        self.guide = guide
        self.plan = array("i", job.prompt)
        self.resident: Resident | None = None
        self.follows: Choice | None = None
        self.until = 0
        self.age = 0
        self.blocks = 0
        self.exact = request.sampling.seed is not None
        """Whether a repetition has to give the same."""
        self.produced = 0
        self.most = request.max_tokens if request.max_tokens is not None else -1
        self.score = 0.0
        self.logprobs = request.logprobs is not None or request.score
        self.plain = sampler.greedy and sampler.simple and guide is None and not self.logprobs
        """The most likely token is taken, and nothing else is asked about it."""
        self.untouched = sampler.greedy and sampler.simple and guide is None and not request.ignore_eos
        """The logits stay as the model gave them."""
        self._skew = len(self.plan) - position(job.pictures, len(self.plan)) if job.pictures else 0
        self._stream = TextStream(job.stops)
        self._pending = 0
        self._emitted = 0
        self._unplanned = -1
        self._logprobs: list[tuple[int, TokenLogprob]] = []

    def echoes(self) -> bool:
        """Whether this choice is evaluating the prompt for its log probabilities."""
        return self.job.request.prompt_logprobs is not None and not self.job.started and not self.index

    def awaits_echo(self) -> bool:
        """Whether another choice of the request has to do that first."""
        return self.index > 0 and self.job.request.prompt_logprobs is not None and not self.job.started

    def have(self) -> int:
        """Tokens of the plan that are in the cache."""
        return len(self.resident.tokens) if self.resident is not None else 0

    def left(self) -> int:
        """Tokens of the plan that are to be evaluated, up to the next picture."""
        have = self.have()
        end = next((span.start for span in self.job.pictures if span.start >= have), len(self.plan))
        return end - have

    def sees(self) -> Span | None:
        """The picture that comes next, if one does."""
        have = self.have()
        return next((span for span in self.job.pictures if span.start <= have < span.end), None)

    def position(self, place: int) -> int:
        """The position in the cache of a place in the plan."""
        return position(self.job.pictures, place) if self.job.pictures else place

    def last_position(self) -> int:
        """That of the plan's last token, which no picture follows."""
        return len(self.plan) - 1 - self._skew

    def in_blocks(self) -> bool:
        """Whether whole blocks of the prompt are to be evaluated."""
        return self.have() < self.blocks

    def history(self) -> list[int]:
        """Tokens of prompt and answer; those of images are not anybody's to send back."""
        tokens = self.plan.tolist()
        if self.job.pictures:
            tokens = [token for token in tokens if token >= 0]
        if self._unplanned >= 0:
            tokens.append(self._unplanned)
        return tokens

    def note(self, row: Row, token: int) -> None:
        """Remember the log probability of `token` in the model's own distribution, and the alternatives'."""
        wanted = self.job.request.logprobs
        top = most_likely(row, wanted or 0)
        values = log_softmax(row, np.append(top, token)).tolist()
        self.score += values[-1]
        if wanted is None or token in self.job.ends:
            return
        self._logprobs.append((self._stream.length, self.job.logprob(token, values[-1], top.tolist(), values)))

    def advance(self, token: int, answers: list[Answer]) -> FinishReason | None:
        """Take a token: give its text; the reason if it is the last."""
        job = self.job
        if not self.most:
            # Only the prompt was asked about; this token came with its last step and is nobody's answer.
            return "length"
        self.produced += 1
        self._pending += 1
        job.produced += 1
        if self.sampler.remembers:
            self.sampler.accept(token)
        if token in job.ends and not job.request.ignore_eos:
            self._unplanned = token
            return "stop"
        piece = job.pieces[token]
        if piece:
            text = self._stream.feed(piece)
            if text:
                self._emit(text, answers)
            if self._stream.stopped is not None:
                self._unplanned = token
                return "stop"
        if self.guide is not None and self.guide.finished:
            self._unplanned = token
            return "stop"
        if self.produced == self.most:
            self._unplanned = token
            return "length"
        if len(self.plan) >= job.limit and not job.request.shift:
            self._unplanned = token
            return "length"
        self.plan.append(token)
        return None

    def finish(self, reason: FinishReason, answers: list[Answer]) -> None:
        """Give the rest of the text and the reason."""
        text = self._stream.flush()
        stop = self._stream.stopped
        if text or self._pending or self._logprobs:
            self._emit(text, answers)
        answers.append(
            Answer(
                self.job.key,
                Finish(
                    index=self.index,
                    reason=reason,
                    stop=stop if stop in self.job.request.stop else None,
                    score=self.score if self.job.request.score else None,
                ),
            )
        )

    def _emit(self, text: str, answers: list[Answer]) -> None:
        self._emitted += len(text)
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._logprobs:
            # A token belongs to the text if it begins in it; what may become a stop string waits.
            shown = sum(start < self._emitted for start, _ in self._logprobs)
            logprobs = tuple(entry for _, entry in self._logprobs[:shown])
            del self._logprobs[:shown]
        answers.append(
            Answer(self.job.key, Delta(index=self.index, text=text, tokens=self._pending, logprobs=logprobs))
        )
        self._pending = 0
