"""The child process: reads orders, decodes, reports. Started by `akashllm.server.engines.supervisor`."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Event
from time import perf_counter

from akashllm.errors import EngineFailed, ServiceError
from akashllm.server.domain import ChatPrompt, Done, EngineStats, Generation, Sampling, TextPrompt
from akashllm.server.engines import frames
from akashllm.server.engines.blame import blame
from akashllm.server.engines.child import Line, run
from akashllm.server.engines.frames import (
    Answer,
    Beat,
    Cancel,
    Detokenize,
    Embed,
    Fault,
    Hold,
    Load,
    Order,
    Progress,
    Ready,
    Refused,
    Reply,
    Shutdown,
    Step,
    Submit,
    Tokenize,
)
from akashllm.server.engines.llamacpp.embedding import Embedder, Work
from akashllm.server.engines.llamacpp.job import Job
from akashllm.server.engines.llamacpp.memory import SMALL_MODEL
from akashllm.server.engines.llamacpp.model import ECHO_ROWS, Model, ModelRefused
from akashllm.server.engines.llamacpp.prepare import Preparer
from akashllm.server.engines.llamacpp.scheduler import Scheduler
from akashllm.server.engines.prompts import MUCH, slow

PAUSE = 0.02
"""Seconds to wait when nothing can be done until a slow reader has read."""

_PREPARERS = 2
_STACK = 16 << 20


class Child:
    """The state the threads of the process share.

    The main thread owns llama.cpp's contexts. The reader thread takes orders and wakes it, helpers render and
    compile, and one thread beats. Everything the main thread has to do comes through `_inbox`.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = Condition()
        self._jobs: dict[int, Job | None] = {}
        self._embeds: set[int] = set()
        # Their stacks are deeper than those on which constraints are tried.
        threading.stack_size(_STACK)
        self._helpers = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare")
        self._patient = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare slowly")
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="look at images")
        self._stop = Event()
        self._scheduler: Scheduler | None = None

    def run(self) -> None:
        """Load, then decode until told to stop."""
        order = self._line.load()
        if order is None:
            return
        self._line.beat(self._alive)
        try:
            model = self._load(order)
        except ModelRefused as refusal:
            self._line.send(Refused(reason=str(refusal), fault=refusal.fault))
            return
        self._decode()
        del model

    def _load(self, order: Load) -> Model:
        last = -1.0

        def progress(percent: float) -> None:
            nonlocal last
            if percent - last >= 1.0 or percent >= 100.0:
                last = percent
                self._line.send(Progress(percent=percent))

        model = Model(order, progress)
        self._model = model
        self._preparer = self._prepared(model, order.template)
        self._embedder = Embedder(model)
        scheduler = scheduler_for(model)
        self._warm_up(scheduler)
        self._scheduler = scheduler
        self._helpers.submit(self._preparer.constraints.warm)
        self._line.send(Ready(info=model.info))
        self._line.listen(self._obey)
        return model

    @staticmethod
    def _prepared(model: Model, template: str) -> Preparer:
        try:
            return Preparer(model, template)
        except EngineFailed as error:
            raise ModelRefused(error.message, fault=blame(error.message)) from error

    def _warm_up(self, scheduler: Scheduler) -> None:
        """One real token, so that ready means ready."""
        if not self._model.generates:
            self._embedder.warm_up()
            return
        request = Generation(
            id="warm-up",
            model="",
            prompt=TextPrompt(text="Hello"),
            sampling=Sampling(temperature=0.0),
            max_tokens=1,
        )
        job = self._preparer.job(0, request)
        scheduler.submit(job)
        answers: list[Answer] = []
        for _ in range(4):
            answers += scheduler.step()
            if job.over and job.produced:
                return
        raise ModelRefused("the model loads but does not produce a token")

    # --- the main thread -----------------------------------------------------------------------------------

    def _decode(self) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return
        inbox = self._inbox
        while not self._stop.is_set():
            while inbox:
                inbox.popleft()()
            answers = scheduler.step() if scheduler.busy() else []
            if answers:
                self._line.send(Step(answers=answers))
                for answer in answers:
                    if isinstance(answer.event, Done | Fault):
                        self._jobs.pop(answer.key, None)
            if self._embedder.due(decoding=scheduler.busy()):
                self._embedder.step(self._line.send)
            idle = not scheduler.busy() and not self._embedder.busy()
            if not inbox and (idle or scheduler.stuck):
                with self._wake:
                    if not inbox and not self._stop.is_set():
                        self._wake.wait(None if idle else PAUSE)

    def _post(self, action: Callable[[], None]) -> None:
        """Have `action` run on the main thread before the next step."""
        self._inbox.append(action)
        with self._wake:
            self._wake.notify()

    def _enter(self, job: Job) -> None:
        if job.key in self._jobs and self._scheduler is not None:
            self._jobs[job.key] = job
            self._scheduler.submit(job)

    def _cancel(self, key: int) -> None:
        job = self._jobs.pop(key, None)
        if job is not None and self._scheduler is not None:
            self._scheduler.cancel(job)
        self._embeds.discard(key)
        self._embedder.cancel(key)
        self._model.context.resume()

    def _hold(self, key: int, *, on: bool) -> None:
        job = self._jobs.get(key)
        if job is not None:
            job.held = on

    # --- the other threads ---------------------------------------------------------------------------------

    def _obey(self, order: Order) -> None:
        match order:
            case Submit():
                self._jobs[order.key] = None
                self._fit_for(order.request).submit(self._prepare, order)
            case Cancel():
                scheduler = self._scheduler
                job = self._jobs.get(order.key)
                if scheduler is not None and job is not None and scheduler.only_prompt(job):
                    self._model.context.abort()
                self._post(lambda: self._cancel(order.key))
            case Hold():
                self._post(lambda: self._hold(order.key, on=order.on))
            case Embed():
                self._embeds.add(order.key)
                much = sum(map(len, order.request.inputs)) > MUCH
                helpers = self._patient if much else self._helpers
                helpers.submit(self._answer, order.key, lambda: self._embed(order))
            case Tokenize():
                self._helpers.submit(self._answer, order.key, lambda: self._tokenize(order))
            case Detokenize():
                self._helpers.submit(self._answer, order.key, lambda: self._detokenize(order))
            case Shutdown():
                self._stop.set()
                self._model.context.abort()
                self._post(lambda: None)
            case Load():
                pass

    def _fit_for(self, request: Generation) -> ThreadPoolExecutor:
        """Who prepares a request, so that none waits for one that takes much longer."""
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt) and any(message.images for message in prompt.messages):
            return self._eyes
        return self._patient if slow(request) else self._helpers

    def _prepare(self, order: Submit) -> None:
        if order.key not in self._jobs:
            return
        try:
            job = self._preparer.job(order.key, order.request, lambda: order.key in self._jobs)
        except ServiceError as error:
            self._jobs.pop(order.key, None)
            self._line.send(Step(answers=[Answer(order.key, frames.fault(error))]))
        except BaseException:  # noqa: BLE001 - whatever it is, a panic of a library too, the client gets an answer
            traceback.print_exc()
            self._jobs.pop(order.key, None)
            failure = ServiceError("the engine could not prepare this request")
            self._line.send(Step(answers=[Answer(order.key, frames.fault(failure))]))
        else:
            self._post(lambda: self._enter(job))

    def _answer(self, key: int, work: Callable[[], Reply | None]) -> None:
        try:
            reply = work()
        except ServiceError as error:
            reply = Reply(key=key, fault=frames.fault(error))
        except BaseException:  # noqa: BLE001 - as above
            traceback.print_exc()
            reply = Reply(key=key, fault=frames.fault(ServiceError("the engine could not answer this request")))
        if reply is not None:
            self._line.send(reply)

    def _tokenize(self, order: Tokenize) -> Reply:
        tokens = self._model.vocabulary.tokenize(order.text, special=order.special, bos=order.bos)
        return Reply(key=order.key, tokens=tuple(tokens))

    def _detokenize(self, order: Detokenize) -> Reply:
        return Reply(key=order.key, text=self._model.vocabulary.detokenize(order.tokens))

    def _embed(self, order: Embed) -> None:
        try:
            if order.key in self._embeds:
                work = self._embedder.prepare(order.key, order.request)
                self._post(lambda: self._enter_embedding(work))
        except BaseException:
            self._embeds.discard(order.key)
            raise

    def _enter_embedding(self, work: Work) -> None:
        if work.key in self._embeds:
            self._embeds.discard(work.key)
            self._embedder.enter(work)

    def _alive(self) -> Beat:
        scheduler = self._scheduler
        if scheduler is None:
            return Beat(stats=EngineStats())
        tokens = scheduler.step_tokens or self._embedder.step_tokens
        began = scheduler.step_began if scheduler.step_tokens else self._embedder.step_began
        return Beat(stats=scheduler.stats(), age=perf_counter() - began if tokens else 0.0, tokens=tokens)


def scheduler_for(model: Model) -> Scheduler:
    """A scheduler for the model's context."""
    return Scheduler(
        model.context,
        slots=model.slots,
        sequences=model.sequences,
        ends=model.vocabulary.ends,
        whole=model.whole_prefixes,
        echo_rows=ECHO_ROWS,
        micro_batch=model.micro_batch,
        tiled=not model.on_gpu,
        escorted=not model.on_gpu and model.weights < SMALL_MODEL,
    )


def work(line: Line) -> int:
    """Serve one model over a line."""
    # Helpers give way to the decode loop quickly.
    sys.setswitchinterval(0.0005)
    Child(line).run()
    return 0


if __name__ == "__main__":
    run(work)
