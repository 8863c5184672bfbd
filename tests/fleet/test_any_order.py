"""Whatever is asked in whatever order: the budget holds, nobody busy is unloaded, and everybody is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from akashllm.errors import EngineFailed, ModelNotFound, ServiceError
from akashllm.server.domain import Generation
from akashllm.server.library import Measured, Offer
from akashllm.server.room import Room
from akashllm.server.runtime import Runtime
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine
from tests.fleet.support import Shelf, ask, sized

NAMES = ("a", "b", "c", "d")
BUDGET = 30


class Here(ThreadPoolExecutor):
    """Does at once what a thread would do some time: the same steps always have the same outcome."""

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Call it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*given, **named))
        except ServiceError as error:
            future.set_exception(error)
        return future


class Watched(ScriptedEngine):
    """Notes when it is unloaded while it answers, and what all of its kind have in memory."""

    def __init__(self, machine: Fleet, memory: int, *, fails: bool) -> None:
        super().__init__(machine.reply, info=sized("x", memory))
        self.become("unloaded")
        self._machine = machine
        self._fails = fails
        machine.built.append(self)

    async def load(self) -> None:
        """Load, in several steps, or fail."""
        if self.state == "ready":
            return
        self.become("loading")
        await asyncio.sleep(0)
        if self._fails:
            self.become("failed", "broken")
            raise EngineFailed("broken")
        self.become("ready")
        held = sum(engine.info.memory for engine in self._machine.built if engine.state == "ready")
        self._machine.most_held = max(self._machine.most_held, held)

    async def unload(self) -> None:
        """Unload; a fault if anybody is being answered."""
        if self.stats().running and not self._machine.ending:
            self._machine.faults.append("a busy model was unloaded")
        await asyncio.sleep(0)
        self.become("unloaded")

    async def close(self) -> None:
        """Stop for good."""
        await super().close()
        self.become("unloaded")


class Fleet(RuleBasedStateMachine):
    """Clients, an operator and a clock, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop().set_default_executor(Here())
        self.gates: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[str]] = []
        self.built: list[Watched] = []
        self.faults: list[str] = []
        self.most_held = 0
        self.ending = False
        self.versions = 0
        self.shelf = Shelf()

    def reply(self, request: Generation) -> Reply:
        """Each answer waits for its own gate."""
        return Reply("done", gate=self.gates[int(request.id)])

    @initialize(most=strategies.integers(0, 3), pinned=strategies.booleans())
    def begin(self, most: int, pinned: bool) -> None:
        """A service with four models beside the deployed one."""
        for name in NAMES:
            self.offer(name, 12, pinned=pinned and name == "a")

        async def make() -> None:
            primary = Watched(self, 8, fails=False)
            deployed = Offer(name="tiny:latest", key="tiny", build=lambda: primary, measure=lambda: Measured(8))
            self.runtime = Runtime(
                Settings(concurrency=2, queue=100_000),
                primary,
                libraries=[self.shelf],
                room=Room(BUDGET, most),
                deployed=deployed,
            )

        self.runner.run(make())

    def offer(self, name: str, memory: int, *, fails: bool = False, pinned: bool = False) -> None:
        """Put a model there, under a key that no model had before."""
        self.versions += 1
        offer = self.shelf.put(name, memory, key=self.versions, pinned=pinned)
        values = {field: getattr(offer, field) for field in offer.__dataclass_fields__}
        values["build"] = lambda: Watched(self, memory, fails=fails)
        self.shelf.offers[next(k for k in self.shelf.offers if k.model == name)] = Offer(**values)

    def step(self, turns: int = 30) -> None:
        """Let everything happen that can happen by itself."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.runner.run(turn())

    @rule(name=strategies.sampled_from((*NAMES, "tiny")), patient=strategies.booleans())
    def request(self, name: str, patient: bool) -> None:
        """Somebody asks, and perhaps something else happens only when that is under way."""

        async def start() -> None:
            number = len(self.gates)
            self.gates.append(asyncio.Event())
            self.tasks.append(asyncio.create_task(ask(self.runtime, name, id=str(number))))

        self.runner.run(start())
        if patient:
            self.step()

    @precondition(lambda self: any(not gate.is_set() for gate in self.gates))
    @rule(data=strategies.data())
    def answer(self, data: Any) -> None:
        """An answer comes to its end."""
        data.draw(strategies.sampled_from([gate for gate in self.gates if not gate.is_set()])).set()

    @precondition(lambda self: self.tasks)
    @rule(data=strategies.data())
    def leave(self, data: Any) -> None:
        """Somebody goes away."""
        self.runner.get_loop().call_soon(
            self.tasks[data.draw(strategies.integers(0, len(self.tasks) - 1))].cancel
        )

    @rule(name=strategies.sampled_from(NAMES), memory=strategies.integers(1, 35), fails=strategies.booleans())
    def replace(self, name: str, memory: int, fails: bool) -> None:
        """A model is made anew, perhaps too large, perhaps broken."""
        self.offer(name, memory, fails=fails)

    @rule(name=strategies.sampled_from(NAMES))
    def unload(self, name: str) -> None:
        """Somebody says that a model may go."""

        async def go() -> None:
            await (await self.runtime.resident(name)).unload()

        self.runner.run(go())

    @rule()
    def wait(self) -> None:
        """Time passes."""
        self.step()

    @invariant()
    def the_budget_holds(self) -> None:
        """Never more in memory than there is, never a busy model unloaded."""
        assert self.faults == []
        assert self.most_held <= BUDGET
        if hasattr(self, "runtime"):
            assert self.runtime.room.taken <= BUDGET
            held = {id(tenant) for tenant in self.runtime.room.tenants}
            for resident in self.runtime.residents():
                assert not resident.loaded() or id(resident) in held

    def teardown(self) -> None:
        """Everybody who is still there is answered, and nothing is left over."""
        for gate in self.gates:
            gate.set()

        async def end() -> None:
            async with asyncio.timeout(10):
                found = await asyncio.gather(*self.tasks, return_exceptions=True)
            for one in found:
                if isinstance(one, BaseException):
                    assert isinstance(one, asyncio.CancelledError | EngineFailed | ModelNotFound), repr(one)
                    assert (
                        not isinstance(one, ServiceError)
                        or "broken" in one.message
                        or "needs" in one.message
                        or ("cannot be loaded" in one.message)
                    ), one.message
                else:
                    assert one == "done"
            assert all(not resident.busy for resident in self.runtime.residents())
            self.ending = True
            await self.runtime.close()
            assert self.runtime.room.taken == 0

        try:
            if hasattr(self, "runtime"):
                self.runner.run(end())
        finally:
            self.runner.close()


TestAnyOrder = Fleet.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
