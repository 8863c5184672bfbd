"""The child process: vLLM's engine on one side, this service's frames on the other.

Runs under the interpreter that has vLLM, which need not have anything of the service's but this package. The
main thread runs the event loop with vLLM's client; its engine core is a process of its own. One thread takes
orders, one beats, and helpers render, tokenise and try constraints.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from akashllm.errors import BadRequest, ServiceError
from akashllm.server.domain import EngineStats
from akashllm.server.engines import frames
from akashllm.server.engines.blame import blame
from akashllm.server.engines.child import BEAT, Line, run
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
    Told,
    Transcribe,
)
from akashllm.server.engines.vllm import launch
from akashllm.server.engines.vllm.launch import Refusal
from akashllm.server.engines.vllm.lifeline import lead
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.overheard import Overheard

if TYPE_CHECKING:
    from akashllm.server.engines.vllm.listening import Listening
    from akashllm.server.engines.vllm.serving import Serving

_STACK = 16 << 20
_POLITE = 2.0
"""Seconds vLLM may take to end by itself."""


class Child:
    """What the threads of the process share."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._serving: Serving | Listening | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._answers: list[Answer] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def run(self) -> int:
        """Load, then serve until told to stop. The exit status."""
        order = self._line.load()
        if order is None:
            return 0
        self._line.beat(self._alive)
        self._line.send(Progress(percent=0.0))
        overheard = Overheard()
        try:
            status = asyncio.run(self._serve(order))
        except Refusal as refusal:
            self._line.send(Refused(reason=str(refusal), fault=refusal.fault))
            return 0
        except Exception as error:  # noqa: BLE001 - vLLM's core has told the cause before, on its own output
            sys.stderr.flush()
            traceback.print_exc()
            reason = overheard.cause() or f"{type(error).__name__}: {error}"
            if overheard.final():
                self._line.send(Refused(reason=f"vLLM could not start: {reason}", fault=blame(reason)))
                return 0
            overheard.say(f"vLLM could not start: {reason}")
            return 1
        if status:
            overheard.say("vLLM's engine core died")
        return status

    async def _serve(self, order: Load) -> int:
        options = Options.unpack(order.options)
        launch.prepare_environment()
        vram = launch.check_machine(order, options)
        engine, counts = launch.start(order, options)
        from akashllm.server.engines.vllm.listening import Listening
        from akashllm.server.engines.vllm.serving import Serving

        kind: type[Serving | Listening] = Listening if options.task == "transcribe" else Serving
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        threading.stack_size(_STACK)
        self._serving = serving = await kind.over(engine, counts, order, options, vram)
        await serving.warm_up()
        self._line.send(Ready(info=serving.info))
        self._line.listen(self._hand_over)
        watch = asyncio.create_task(self._watch(engine))
        await self._ended.wait()
        watch.cancel()
        if engine.errored:
            return 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(engine.shutdown, _POLITE), _POLITE)
        return 0

    async def _watch(self, engine: Any) -> None:
        """See an engine that dies while nothing is asked of it."""
        while True:
            await asyncio.sleep(BEAT)
            if engine.errored:
                self._end()

    def _end(self) -> None:
        if self._ended is not None:
            self._ended.set()

    # --- orders --------------------------------------------------------------------------------------------

    def _hand_over(self, order: Order) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._obey, order)

    def _obey(self, order: Order) -> None:
        serving = self._serving
        if serving is None:
            return
        match order:
            case Submit():
                self._start(order.key, self._generate(serving, order))
            case Embed():
                self._start(order.key, self._reply(order.key, lambda: serving.embed(order)))
            case Transcribe():
                self._start(order.key, self._transcribe(serving, order))
            case Tokenize():
                self._start(order.key, self._reply(order.key, lambda: serving.tokenize(order)))
            case Detokenize():
                self._start(order.key, self._reply(order.key, lambda: serving.detokenize(order)))
            case Cancel():
                task = self._tasks.pop(order.key, None)
                if task is not None:
                    task.cancel()
            case Hold():
                serving.hold(order.key, on=order.on)
            case Shutdown():
                self._end()
            case Load():
                pass

    def _start(self, key: int, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._done(key, done))

    def _done(self, key: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    async def _generate(self, serving: Serving | Listening, order: Submit) -> None:
        try:
            await serving.generate(order.key, order.request, lambda event: self._tell(order.key, event))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            fault = self._fault(error, serving)
            if fault is not None:
                self._tell(order.key, frames.fault(fault))

    async def _transcribe(self, serving: Serving | Listening, order: Transcribe) -> None:
        try:
            await serving.transcribe(order.request, lambda event: self._tell(order.key, event))
        except Exception as error:  # noqa: BLE001 - as above
            fault = self._fault(error, serving)
            if fault is not None:
                self._tell(order.key, frames.fault(fault))

    async def _reply(self, key: int, work: Callable[[], Awaitable[Reply]]) -> None:
        serving = self._serving
        try:
            reply = await work()
        except Exception as error:  # noqa: BLE001 - as above
            fault = self._fault(error, serving)
            if fault is None:
                return
            reply = Reply(key=key, fault=frames.fault(fault))
        self._line.send(reply)

    def _fault(self, error: Exception, serving: Serving | Listening | None) -> ServiceError | None:
        """The error for the client; None if the whole process is about to end, which answers everybody."""
        if isinstance(error, ServiceError):
            return error
        if serving is not None and serving.dead:
            self._end()
            return None
        told = serving.refusal(error) if serving is not None else None
        if told is not None:
            return BadRequest(told)
        traceback.print_exception(error)
        return ServiceError("the engine could not answer this request")

    # --- reports -------------------------------------------------------------------------------------------

    def _tell(self, key: int, event: Told | Fault) -> None:
        """Have an event sent, together with what else this turn of the loop brings."""
        if not self._answers and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._answers.append(Answer(key, event))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        self._line.send(Step(answers=answers))

    def _alive(self) -> Beat:
        serving = self._serving
        if serving is None:
            return Beat(stats=EngineStats())
        age, tokens = serving.clock.read()
        return Beat(stats=serving.stats(), age=age, tokens=tokens)


def work(line: Line) -> int:
    """Serve one model over a line; the head of a group, so that nothing of vLLM outlives it."""
    lead()
    return Child(line).run()


if __name__ == "__main__":
    run(work)
