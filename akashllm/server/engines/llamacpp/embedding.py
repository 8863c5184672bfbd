"""Embeddings: a second, small context over the same weights, fed a piece at a time between decode steps."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns

import llama_cpp.llama_cpp as api
import numpy as np
from numpy.typing import NDArray

from akashllm.errors import ServiceError
from akashllm.server.domain import Embedding, Embeddings, Timings
from akashllm.server.engines.frames import Reply, Report, fault
from akashllm.server.engines.inputs import token_lists
from akashllm.server.engines.llamacpp.context import Context
from akashllm.server.engines.llamacpp.model import Model

MAX_INPUT = 8192
"""Tokens of one input to a model that is made for embeddings; MAX_INPUT_GENERATIVE: to one that is not."""
MAX_INPUT_GENERATIVE = 2048
STEP = 512
"""Tokens of short inputs evaluated together, at most; MIN_STEP: at least. One long input is one step."""
MIN_STEP = 64
SHARED = 0.05
"""Seconds for which a step of short inputs may hold up answers."""
_SEQUENCES = 32


@dataclass(eq=False, slots=True)
class Work:
    """One request for embeddings and what is done of it."""

    key: int
    request: Embedding
    inputs: list[array[int]]
    vectors: list[tuple[float, ...]] = field(default_factory=list)
    began: int = field(default_factory=perf_counter_ns)


class Embedder:
    """Makes embeddings on the main thread; `prepare` may be called from any."""

    def __init__(self, model: Model) -> None:
        self._model = model
        longest = MAX_INPUT_GENERATIVE if model.generates and model.pooling < 0 else MAX_INPUT
        self._limit = min(model.context_length, longest)
        self._context: Context | None = None
        self._queue: deque[Work] = deque()
        self._rests_until = 0.0
        self._step = STEP
        self._shared = False
        self.step_began = 0.0
        self.step_tokens = 0

    def busy(self) -> bool:
        """Whether there is something to embed."""
        return bool(self._queue)

    def prepare(self, key: int, request: Embedding) -> Work:
        """Token lists that fit. Raises `BadRequest`."""
        lists = token_lists(request, self._model.vocabulary, limit=self._limit, width=self._model.width)
        return Work(key, request, [array("i", tokens) for tokens in lists])

    def enter(self, work: Work) -> None:
        """Queue a request."""
        self._queue.append(work)

    def cancel(self, key: int) -> None:
        """Forget a request, if it is here."""
        self._queue = deque(work for work in self._queue if work.key != key)

    def due(self, *, decoding: bool) -> bool:
        """Whether it is the turn of embeddings: beside answers they get half of the time."""
        self._shared = decoding
        return bool(self._queue) and (not decoding or perf_counter() >= self._rests_until)

    def warm_up(self) -> None:
        """One embedding, so that ready means ready."""
        self._embed([array("i", self._model.vocabulary.tokenize("Hello", special=False, bos=True))])

    def step(self, send: Callable[[Report], None]) -> None:
        """Embed some inputs of the oldest request, if there is one."""
        if not self._queue:
            return
        work = self._queue[0]
        done = len(work.vectors)
        group: list[array[int]] = []
        tokens = 0
        room = min(self._step if self._shared else STEP, self._limit)
        for item in work.inputs[done : done + _SEQUENCES]:
            if group and tokens + len(item) > room:
                break
            group.append(item)
            tokens += len(item)
        began = perf_counter()
        try:
            rows = self._embed(group)
        except ServiceError as error:
            self._queue.popleft()
            send(Reply(key=work.key, fault=fault(error)))
            return
        now = perf_counter()
        self._rests_until = now + (now - began)
        self._step = max(MIN_STEP, min(STEP, int(tokens * SHARED / max(now - began, 1e-6))))
        work.vectors.extend(_shape(row, work.request) for row in rows)
        if len(work.vectors) == len(work.inputs):
            self._queue.popleft()
            elapsed = perf_counter_ns() - work.began
            result = Embeddings(
                vectors=tuple(work.vectors),
                prompt_tokens=sum(len(item) for item in work.inputs),
                timings=Timings(prompt=elapsed),
            )
            send(Reply(key=work.key, embeddings=result))

    def _embed(self, group: list[array[int]]) -> list[NDArray[np.float32]]:
        context = self._open()
        context.clear()
        context.batch.clear()
        for sequence, tokens in enumerate(group):
            context.batch.chunk(tokens, 0, sequence, last=True, every=True)
        self.step_began = perf_counter()
        self.step_tokens = context.batch.count
        code = context.decode()
        self.step_tokens = 0
        if code:
            message = f"the engine could not embed this input (llama_decode gave {code})"
            raise ServiceError(message)
        rows = [context.pooled(sequence, self._model.width) for sequence in range(len(group))]
        found = [row for row in rows if row is not None]
        if len(found) != len(group):
            raise ServiceError("this model gives no pooled embeddings")
        return found

    def _open(self) -> Context:
        if self._context is None:
            model = self._model
            pooling = (
                model.pooling if model.pooling > api.LLAMA_POOLING_TYPE_NONE else api.LLAMA_POOLING_TYPE_MEAN
            )
            size = max(self._limit, min(STEP, model.context_length))
            try:
                self._context = Context(
                    model.raw,
                    vocab_size=model.vocabulary.size,
                    cells=-(-size // 256) * 256,
                    sequences=_SEQUENCES,
                    batch=size,
                    micro_batch=size,
                    outputs=size,
                    threads=model.threads,
                    embeddings=True,
                    pooling=pooling,
                )
            except MemoryError as error:
                raise ServiceError(str(error)) from error
            model.adapters.apply(self._context.raw)
        return self._context


def _shape(row: NDArray[np.float32], request: Embedding) -> tuple[float, ...]:
    vector = row[: request.dimensions].astype(np.float64)
    if request.normalize:
        length = float(np.sqrt((vector * vector).sum()))
        if length > 0:
            vector = vector / length
    return tuple(vector.tolist())
