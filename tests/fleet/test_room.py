"""Several models in one memory: who is loaded, who makes room, who waits."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from akashllm.errors import BadRequest, Busy, EngineFailed, ModelNotFound
from akashllm.server.admission import Admission
from akashllm.server.domain import ChatPrompt, Message
from akashllm.testing.engine import Reply
from tests.fleet.support import Shelf, ask, fleet, loaded
from tests.service.support import until


async def test_a_model_is_loaded_when_it_is_asked_for() -> None:
    """Naming a model of the library loads it beside the deployed one; nobody else is touched."""
    shelf = Shelf()
    shelf.put("a")
    shelf.put("b")
    async with fleet(shelf) as found:
        assert await ask(found, "tiny") == "echo: x"
        assert await ask(found, "a") == "echo: x"
        assert loaded(found) == {"tiny", "a"}
        with pytest.raises(ModelNotFound):
            await ask(found, "c")
    assert all(engine.closed for engines in shelf.engines.values() for engine in engines)


async def test_the_least_recently_used_model_makes_room() -> None:
    """Within the budget everything stays; beyond it the model that was not used for longest leaves."""
    shelf = Shelf()
    for name in "abc":
        shelf.put(name)
    async with fleet(shelf, budget=30) as found:
        for name in ("tiny", "a", "b", "tiny", "c"):
            await ask(found, name)
        assert loaded(found) == {"tiny", "b", "c"}
        assert found.room.taken == 30
        await ask(found, "a")
        assert loaded(found) == {"tiny", "a", "c"}


async def test_a_large_model_makes_several_leave() -> None:
    """As many models leave as the new one needs, and not one more."""
    shelf = Shelf()
    shelf.put("a", 5)
    shelf.put("b", 5)
    shelf.put("big", 18)
    async with fleet(shelf, budget=30) as found:
        for name in ("tiny", "a", "b", "big"):
            await ask(found, name)
        assert loaded(found) == {"a", "b", "big"}
        assert found.room.taken == 28


async def test_so_many_models_and_no_more() -> None:
    """A limit on their number holds whatever memory there is."""
    shelf = Shelf()
    for name in "abc":
        shelf.put(name)
    async with fleet(shelf, most=2) as found:
        for name in ("a", "b", "c"):
            await ask(found, name)
            assert len(loaded(found)) <= 2
        assert loaded(found) == {"b", "c"}


async def test_a_busy_model_is_never_unloaded() -> None:
    """A request for another model waits until the answer that runs is done; the answer is whole."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("one two three", gate=gate, gate_after=1)})
    shelf.put("a", 10)
    shelf.put("b", 10)
    async with fleet(shelf, budget=10) as found:
        running = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        waiting = asyncio.create_task(ask(found, "b"))
        await until(lambda: found.residents()[-1].name == "b:latest" and found.residents()[-1].busy)
        await asyncio.sleep(0.02)
        assert loaded(found) == {"a"}
        assert not shelf.engine("b").loads
        gate.set()
        assert await running == "one two three"
        assert await waiting == "echo: x"
        assert loaded(found) == {"b"}


async def test_a_model_in_constant_use_still_makes_room() -> None:
    """Requests to a model for whose memory another one waits come after that one, and are answered."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("slow", gate=gate)})
    shelf.put("a")
    shelf.put("b")
    order: list[str] = []

    async def one(found: object, model: str, text: str = "x") -> None:
        await ask(found, model, text)  # type: ignore[arg-type] # the runtime of the fleet below
        order.append(f"{model} {text}")

    async with fleet(shelf, budget=10) as found:
        first = asyncio.create_task(one(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        second = asyncio.create_task(one(found, "b"))
        await until(lambda: len(found.residents()) == 3 and found.residents()[2].busy)
        late = [asyncio.create_task(one(found, "a", f"late {i}")) for i in range(3)]
        await asyncio.sleep(0.02)
        assert len(shelf.engine("a").requests) == 1
        gate.set()
        await asyncio.gather(first, second, *late)
        assert order[:2] == ["a slow", "b x"]
        assert sorted(order[2:]) == ["a late 0", "a late 1", "a late 2"]


async def test_the_wait_for_room_is_bounded() -> None:
    """A request that waited too long is refused with a time to retry, and its load is forgotten."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("slow", gate=gate)})
    shelf.put("a")
    shelf.put("b")
    async with fleet(shelf, budget=10, load_timeout=0.05) as found:
        running = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        with pytest.raises(Busy, match="memory that other models use") as caught:
            await ask(found, "b")
        assert caught.value.retry_after
        gate.set()
        await running
        await asyncio.sleep(0.02)
        assert loaded(found) == {"a"}, "nobody waits for b any more"
        assert await ask(found, "b") == "echo: x"


async def test_one_load_at_a_time() -> None:
    """While one model loads another one waits for its turn, even where there is room for both."""
    shelf = Shelf(manual=True)
    shelf.put("a")
    shelf.put("b")
    async with fleet(shelf) as found:
        tasks = [asyncio.create_task(ask(found, name)) for name in ("a", "b")]
        await until(lambda: len(shelf.engines) == 2 and any(e[0].loads for e in shelf.engines.values()))
        await asyncio.sleep(0.01)
        first, second = sorted(shelf.engines, key=lambda name: -shelf.engine(name).loads)
        assert shelf.engine(second).loads == 0
        shelf.engine(first).finish_loading()
        await until(lambda: shelf.engine(second).loads == 1)
        shelf.engine(second).finish_loading()
        assert await asyncio.gather(*tasks) == ["echo: x", "echo: x"]


async def test_a_failed_load_hurts_nobody_else() -> None:
    """Its reason goes to whoever asked for it; its memory is free again, and other models go on."""
    shelf = Shelf(manual=True)
    shelf.put("bad", 20)
    async with fleet(shelf, budget=30) as found:
        assert await ask(found, "tiny") == "echo: x"
        task = asyncio.create_task(ask(found, "bad"))
        await until(lambda: "bad" in shelf.engines and shelf.engine("bad").loads)
        assert found.room.taken == 30
        shelf.engine("bad").fail_loading("the tensor blk.0 is cut short")
        with pytest.raises(EngineFailed, match=r"blk\.0"):
            await task
        assert found.room.taken == 10
        assert found.health.ready
        assert await ask(found, "tiny") == "echo: x"
        with pytest.raises(EngineFailed, match=r"blk\.0"):
            await ask(found, "bad")


async def test_what_cannot_fit_is_refused_at_once() -> None:
    """A model larger than the budget is a 503 that says both figures, and nobody is unloaded for it."""
    shelf = Shelf()
    shelf.put("huge", 3 << 30)
    async with fleet(shelf, budget=1 << 30) as found:
        await ask(found, "tiny")
        with pytest.raises(EngineFailed, match=r"3\.00 GiB .* 1\.00 GiB"):
            await ask(found, "huge")
        assert loaded(found) == {"tiny"}
        assert shelf.engine("huge").loads == 0


async def test_a_budget_nobody_chose_is_a_guess() -> None:
    """Where the budget was worked out, a larger model may try once everybody else has left."""
    shelf = Shelf()
    shelf.put("huge", 100)
    async with fleet(shelf, budget=30, strict=False) as found:
        await ask(found, "tiny")
        assert await ask(found, "huge") == "echo: x"
        assert loaded(found) == {"huge"}


async def test_the_truth_counts_once_it_is_known() -> None:
    """A model that takes more than was thought makes idle ones leave, or has to leave itself."""
    shelf = Shelf()
    shelf.put("a", 10, truth=25)
    shelf.put("worse", 10, truth=99)
    async with fleet(shelf, budget=30) as found:
        await ask(found, "tiny")
        await ask(found, "a")
        assert loaded(found) == {"a"}
        assert found.room.taken == 25
        with pytest.raises(EngineFailed, match="worse:latest needs"):
            await ask(found, "worse")
        assert "worse" not in loaded(found)
        assert found.room.taken <= 30


async def test_pinned_models_stay() -> None:
    """What is always to be there is loaded at the start, and neither others nor a request make it leave."""
    shelf = Shelf()
    shelf.put("always", 10, pinned=True, keep_alive=0.01)
    shelf.put("a", 20)
    shelf.put("b", 25)
    async with fleet(shelf, budget=30, start=True, runtime={"always": ("always",), "lazy": True}) as found:
        await until(lambda: loaded(found) == {"always"})
        await ask(found, "a")
        assert loaded(found) == {"always", "a"}
        resident = await found.resident("always")
        await ask(found, "always")
        resident.keep_alive(0)
        await resident.unload()
        with pytest.raises(EngineFailed, match="needs"):
            await ask(found, "b")
        await asyncio.sleep(0.03)
        assert "always" in loaded(found)


async def test_an_idle_model_leaves_by_its_own_clock() -> None:
    """Each model has its keep-alive: that of its offer, until a request says another."""
    shelf = Shelf()
    shelf.put("short", keep_alive=0.02)
    shelf.put("long", keep_alive=3600)
    async with fleet(shelf) as found:
        await ask(found, "short")
        await ask(found, "long")
        await until(lambda: loaded(found) == {"long"})
        resident = await found.resident("long")
        expires = resident.expires_at()
        assert expires is not None
        resident.keep_alive(-1)
        assert resident.expires_at() is None


async def test_loading_alone_starts_the_clock() -> None:
    """A request that only loads a model is a use: its keep-alive counts from there."""
    shelf = Shelf()
    shelf.put("short", keep_alive=0.02)
    async with fleet(shelf) as found:
        await (await found.resident("short")).ready()
        await until(lambda: not loaded(found))


async def test_a_model_that_was_made_anew_is_loaded_anew() -> None:
    """Another digest under the same name is another model: the old one answers who is there and then goes."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("old answer", gate=gate)})
    shelf.put("a", key="one", digest="1" * 64)
    async with fleet(shelf) as found:
        running = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        old = shelf.engine("a")
        shelf.put("a", key="two", digest="2" * 64)
        assert await ask(found, "a") == "echo: x"
        assert shelf.engine("a") is not old
        assert not old.closed
        assert {resident.digest for resident in found.residents() if resident.digest} == {"1" * 64, "2" * 64}
        gate.set()
        assert await running == "old answer"
        await until(lambda: old.closed)
        assert {resident.digest for resident in found.residents() if resident.digest} == {"2" * 64}


async def test_who_waits_at_the_door_is_answered_by_the_model_that_was_asked() -> None:
    """A request that lets another model go first is not sent away because its own is made anew meanwhile."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("slow", gate=gate)})
    shelf.put("a", key="one")
    shelf.put("b")
    async with fleet(shelf, budget=10) as found:
        first = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        other = asyncio.create_task(ask(found, "b"))
        await until(lambda: len(found.residents()) == 3 and found.residents()[2].busy)
        late = asyncio.create_task(ask(found, "a", "late"))
        await until(lambda: found.residents()[1].users == 2)
        old = shelf.engine("a")
        shelf.put("a", key="two")
        assert (await found.resident("a")).engine is not old
        gate.set()
        assert [*await asyncio.gather(first, other, late)] == ["slow", "echo: x", "echo: late"]
        assert len(old.requests) == 2
        await until(lambda: old.closed)


async def test_a_deleted_model_is_gone() -> None:
    """Once a model is deleted its name is not found, and what was in memory for it leaves."""
    shelf = Shelf()
    shelf.put("a")
    async with fleet(shelf) as found:
        await ask(found, "a")
        shelf.take("a")
        with pytest.raises(ModelNotFound) as gone:
            await ask(found, "a")
        assert gone.value.hint == "this service serves tiny:latest, and what /v1/models lists"
        await until(lambda: shelf.engine("a").closed)
        assert len(found.residents()) == 1


async def test_names_of_one_model_share_its_memory() -> None:
    """Two names for the same weights loaded in the same way are in memory once."""
    shelf = Shelf()
    shelf.put("a", key="same")
    shelf.put("b", key="same")
    async with fleet(shelf) as found:
        await ask(found, "a")
        await ask(found, "b")
        assert len(shelf.engines) == 1
        shelf.take("a")
        with pytest.raises(ModelNotFound):
            await ask(found, "a")
        assert await ask(found, "b") == "echo: x"


async def test_slots_of_all_models_together() -> None:
    """A bound on all answers holds across models, and waiting for it holds no memory hostage."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("y", gate=gate)})
    shelf.put("a")
    shelf.put("b")
    async with fleet(shelf, runtime={"crowd": Admission(1, 1000)}) as found:
        tasks = [asyncio.create_task(ask(found, name, "slow")) for name in ("a", "b", "a")]
        await until(lambda: found.crowd is not None and (found.crowd.used, found.crowd.waiting) == (1, 2))
        await until(lambda: sum(len(engines[0].requests) for engines in shelf.engines.values()) == 1)
        await asyncio.sleep(0.01)
        assert sum(len(engines[0].requests) for engines in shelf.engines.values()) == 1
        gate.set()
        assert await asyncio.gather(*tasks) == ["y"] * 3


async def test_giving_up_leaves_nothing_behind() -> None:
    """A request that is cancelled while it waits for room takes its load with it."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("slow", gate=gate)})
    shelf.put("a")
    shelf.put("b")
    async with fleet(shelf, budget=10) as found:
        running = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        waiting = asyncio.create_task(ask(found, "b"))
        await until(lambda: len(found.residents()) == 3 and found.residents()[2].busy)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        again = asyncio.create_task(ask(found, "a"))
        gate.set()
        assert await running == "slow"
        assert await again == "echo: x"
        assert loaded(found) == {"a"}


async def test_an_idle_model_leaves_before_a_busy_one() -> None:
    """Where an idle model's leaving is enough nobody waits for a busy one, however long ago that was asked."""
    gate = asyncio.Event()
    shelf = Shelf({"slow": Reply("slow", gate=gate)})
    for name in "abc":
        shelf.put(name)
    async with fleet(shelf, budget=20) as found:
        running = asyncio.create_task(ask(found, "a", "slow"))
        await until(lambda: "a" in shelf.engines and shelf.engine("a").requests)
        await ask(found, "b")
        assert await ask(found, "c") == "echo: x"
        assert loaded(found) == {"a", "c"}
        gate.set()
        await running


async def test_preloaded_messages_are_evaluated_at_every_load() -> None:
    """They are sent to the engine before anybody's request, again after a reload, again after a restart."""
    shelf = Shelf()
    shelf.put("a", preload=(Message(role="system", content="You are the Batman."),))
    async with fleet(shelf) as found:
        await ask(found, "a")
        engine = shelf.engine("a")
        assert [one.id for one in engine.requests] == ["preload", "test"]
        prompt = engine.requests[0].prompt
        assert isinstance(prompt, ChatPrompt)
        assert [one.role for one in prompt.messages] == ["system", "user"]
        await (await found.resident("a")).unload()
        await ask(found, "a")
        assert [one.id for one in engine.requests] == ["preload", "test"] * 2
        engine.become("starting", "restarting the engine")
        engine.become("ready")
        await until(lambda: len(engine.requests) == 5)
        assert engine.requests[-1].id == "preload"


async def test_preloaded_messages_that_cannot_be_rendered_are_no_failure() -> None:
    """A template may refuse them: the model is served all the same."""
    shelf = Shelf(lambda one: Reply(error=BadRequest("no")) if one.id == "preload" else Reply("yes"))
    shelf.put("a", preload=(Message(role="system", content="x"),))
    async with fleet(shelf) as found:
        assert await ask(found, "a") == "yes"


async def test_a_deployed_model_without_room_is_no_healthy_service() -> None:
    """Where the budget is too small for the deployed model, health says failed and why, not unloaded."""
    async with fleet(Shelf(), budget=5, start=True) as found:
        await until(lambda: found.health.state == "failed")
        assert not found.health.ready
        assert "needs" in found.health.public("tiny")["reason"]


async def test_what_is_in_memory_goes_by_a_name_there_is() -> None:
    """When the name a shared model was first asked by is deleted, it is listed by another one it has."""
    shelf = Shelf()
    shelf.put("a", key="same", digest="1" * 64)
    shelf.put("b", key="same", digest="2" * 64)
    async with fleet(shelf) as found:
        await ask(found, "a")
        await ask(found, "b")
        shelf.take("a")
        with pytest.raises(ModelNotFound):
            await ask(found, "a")
        assert [(one.name, one.digest) for one in found.residents()[1:]] == [("b:latest", "2" * 64)]
        assert len(shelf.engines) == 1
