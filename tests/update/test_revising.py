"""What an update makes of what was asked: only what somebody named changes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from akashllm.catalog import Catalog
from akashllm.cli.out import Out
from akashllm.cli.revising import Wanted, revised
from akashllm.errors import DoesNotFit, UsageError
from akashllm.market.console import ConsoleMarket
from akashllm.market.local import LocalMarket
from akashllm.plan import DeployRequest, EngineName, Plan
from akashllm.planning import make_plan
from akashllm.planning.machine import PLANNED
from akashllm.planning.written import plan_of
from akashllm.render import render_sdl
from akashllm.sdl.document import MAX_BYTES
from akashllm.state import Home, Store
from akashllm.testing.images import pretend_pushed
from akashllm.testing.market import MarketServer, World
from tests.cli.conftest import Run, here, home
from tests.console import conftest as console

from .test_cli import record

__all__ = ["here", "home"]

Revise = Callable[..., Plan]
TINY = DeployRequest(model="tiny", name="one")
LARGE = DeployRequest(model="llama3", engine="vllm", name="one")
GPUS = {"h100/80Gi": "40000", "a100/80Gi": "20000", "rtx4090/24Gi": "6000", "t4/16Gi": "2000"}


@pytest.fixture
def world() -> World:
    """A provider for each kind of GPU, at its price."""
    return World(
        providers=[
            console.provider(f"akash1{gpu.partition('/')[0]}", gpu=gpu, price=price)
            for gpu, price in GPUS.items()
        ]
    )


@pytest.fixture
def market(world: World, memory: Path) -> Iterator[ConsoleMarket]:
    """Console, with prices of the day."""
    with MarketServer(world, key=console.CANARY) as server:
        market = console.Place(server, Home(memory / "home").prepare()).console()
        yield market
        market.close_connections()
    assert server.broken == []


@pytest.fixture
def revise(market: ConsoleMarket, memory: Path) -> Iterator[Revise]:
    """`revise(plan or request, option=value, ..., env=(...))`: the plan that an update makes of it."""
    home = Home(memory / "home")
    pretend_pushed(home)
    with Store(home) as store:
        row = store.add("one", "console", {}, "done")

        def revise(before: Plan | DeployRequest, *, env: tuple[str, ...] = (), **changes: Any) -> Plan:
            if isinstance(before, DeployRequest):
                before = make_plan(before, prices=market.gpu_prices())
            now = store.update(row.id, plan=before.as_dict())
            plan, sdl = revised(Out(), store, now, market, Wanted(file=None, changes=changes, env=env))
            assert sdl == render_sdl(plan)
            return plan

        yield revise


def names(plan: Plan) -> set[str]:
    """Its GPUs."""
    return {one.model for one in plan.gpus}


@pytest.mark.parametrize(
    "changes", [{"context": 1024}, {"concurrency": 2}, {"replicas": 2}, {"region": "us-west"}], ids=str
)
@pytest.mark.parametrize(
    "before",
    [
        TINY,
        replace(TINY, gpu=("t4",)),
        replace(TINY, gpu_count=2),
        replace(LARGE, gpu=("h100",)),
        replace(LARGE, gpu=("a100", "h100"), gpu_count=2),
        replace(LARGE, audited=False, region="eu"),
        replace(LARGE, persistent=False, manage=False),
        replace(LARGE, nodes=2),
        replace(LARGE, engine="llamacpp", cpu_only=True, persistent=False),
        replace(LARGE, engine="ollama", quant="Q8_0"),
    ],
    ids=lambda request: f"{request.model}-{request.engine}",
)
def test_only_what_was_named_changes(
    revise: Revise, market: ConsoleMarket, before: DeployRequest, changes: dict[str, Any]
) -> None:
    """GPUs and their number, nodes, volume, audits, region and quantisation are as they were ordered."""
    if before.nodes > 1 and "replicas" in changes:
        with pytest.raises(UsageError, match="exclude each other"):
            revise(before, **changes)
        return
    old = make_plan(before, prices=market.gpu_prices())
    new = revise(before, **changes)

    assert set(new.gpus) == set(old.gpus)
    kept = ("nodes", "volume_gib", "disk_gib", "audited", "quant", "engine", "model", "name", "secrets")
    assert {name: getattr(new, name) for name in kept} == {name: getattr(old, name) for name in kept}
    for name in ("context", "concurrency", "replicas", "region"):
        assert getattr(new, name) == changes.get(name, getattr(old, name))
    assert {name for name, value in new.env if dict(old.env)[name] != value} <= {
        f"AKASHLLM_{name.upper()}" for name in changes
    }


def test_a_deployment_without_a_volume_gets_none(revise: Revise) -> None:
    """Another image, setting or plan leaves weights where they were kept; `--no-volume` takes a volume away."""
    without = make_plan(replace(LARGE, persistent=False))
    assert without.volume_gib == 0
    for changes in ({}, {"image": "127.0.0.1:9/me/other:1"}, {"concurrency": 4}):
        assert revise(without, **changes).volume_gib == 0
    assert revise(LARGE, concurrency=4).volume_gib > 0
    assert revise(LARGE, no_volume=True).volume_gib == 0


def test_prices_of_the_day_make_no_other_machine(revise: Revise, market: ConsoleMarket, world: World) -> None:
    """What was cheap at first stays what is asked for, at the price that was ordered."""
    before = make_plan(replace(LARGE, gpu=("a100", "rtx4090")), prices=market.gpu_prices())
    for provider, price in zip(world.providers, ("40000", "6000", "20000", "2000"), strict=True):
        provider.price = price
    after = revise(before, concurrency=before.concurrency + 1)

    assert (after.gpus, after.max_price_hour, after.price_source) == (
        before.gpus,
        before.max_price_hour,
        before.price_source,
    )
    assert revise(before, max_price=30.0).max_price_hour == 30.0


def test_a_price_that_somebody_named_is_never_exceeded(revise: Revise) -> None:
    """It caps whatever is planned anew, all copies together; what costs more is refused."""
    capped = make_plan(replace(TINY, max_price=0.5))
    assert revise(capped, context=512).max_price_hour == 0.5
    assert revise(capped, replicas=2).max_price_hour == 0.5
    with pytest.raises(DoesNotFit, match=r"costs \$0.50 an hour or less"):
        revise(capped, model="llama3", gpu=["h100"])
    assert revise(capped, model="llama3", gpu=["h100"], max_price=60.0).max_price_hour == 60.0


def test_a_larger_machine_has_a_price_of_its_own(revise: Revise) -> None:
    """A cap that was worked out for a small machine would get no bid for a large one."""
    small = make_plan(replace(LARGE, engine="llamacpp", model="qwen2.5:0.5b", cpu_only=True))
    large = revise(small, model="llama3", cpu=True)
    assert (large.max_price_hour or 0) > (small.max_price_hour or 0)


def test_what_no_longer_fits_gets_more_or_other_gpus(revise: Revise) -> None:
    """Where the GPUs of now cannot hold what is wanted: more of them; where they cost too much: others."""
    before = make_plan(replace(LARGE, gpu=("rtx4090",), concurrency=1))
    assert {(one.model, one.count) for one in before.gpus} == {("rtx4090", 1)}
    assert {(one.model, one.count) for one in revise(before, concurrency=32).gpus} == {("rtx4090", 4)}
    cheaper = names(revise(replace(LARGE, gpu=("h100",)), max_price=15.0))
    assert "a100" in cheaper
    assert "h100" not in cheaper


def test_who_names_gpus_gets_those(revise: Revise) -> None:
    """Each option of a GPU counts: its kind alone, its number alone, none at all."""
    before = make_plan(replace(LARGE, gpu=("a100",)))
    assert names(revise(before, gpu=["h100"])) == {"h100"}
    assert {(one.model, one.count) for one in revise(before, gpu_count=2).gpus} == {("a100", 2)}
    assert revise(replace(TINY, gpu=("t4",)), cpu=True).gpus == ()
    assert names(revise(TINY, gpu=["t4"])) == {"t4"}


def test_nodes_come_and_go(revise: Revise) -> None:
    """`--nodes` adds machines and takes them away; an engine of one machine has one."""
    two = replace(LARGE, nodes=2)
    assert dict(revise(LARGE, nodes=2).env)["AKASHLLM_NODES"] == "2"
    assert "AKASHLLM_NODES" not in dict(revise(two, nodes=1).env)
    assert revise(two, engine="llamacpp").nodes == 1


def test_an_engine_of_gpus_needs_no_other_word(revise: Revise) -> None:
    """What runs without a GPU may be given to vLLM, which wants one."""
    assert revise(replace(LARGE, engine="llamacpp", cpu_only=True), engine="vllm").gpus


def test_a_larger_model_gets_the_gpus_it_needs(revise: Revise) -> None:
    """A small model has no GPU because it needs none; one that was to have none has none either way."""
    assert revise(TINY, model="llama3").gpus
    assert revise(replace(LARGE, engine="llamacpp", cpu_only=True), model="qwen3:8b").gpus == ()


def test_another_model_forgets_what_belonged_to_the_old_one(revise: Revise) -> None:
    """Context and quantisation are those of the new model, GPUs such as it needs."""
    after = revise(replace(LARGE, gpu=("h100",), quant="bf16", context=4096), model="tiny", engine="llama.cpp")
    fresh = make_plan(TINY)
    for name in ("context", "quant", "gpus", "volume_gib", "cpu_units", "port"):
        assert getattr(after, name) == getattr(fresh, name)


def test_settings_of_an_earlier_update_stay(revise: Revise) -> None:
    """A variable that somebody set is there until it is taken away, whatever is planned anew."""
    first = revise(TINY, env=("AKASHLLM_QUEUE=7", "EXTRA=a b"))
    second = revise(first, context=512)
    assert {"AKASHLLM_QUEUE": "7", "EXTRA": "a b", "AKASHLLM_CONTEXT": "512"}.items() <= dict(
        second.env
    ).items()
    third = revise(second, context=1024, env=("AKASHLLM_QUEUE=",))
    assert "AKASHLLM_QUEUE" not in dict(third.env)
    assert dict(third.env)["EXTRA"] == "a b"


def test_variables_of_a_plan_are_known_as_such() -> None:
    """Every variable that some plan sets is listed, and no other: the rest is a person's own."""
    found: set[str] = set()
    for model in Catalog.load():
        for engine in get_args(EngineName):
            request = DeployRequest(model=model.alias, engine=engine)
            for one in (request, replace(request, gpu_count=2), replace(request, nodes=2)):
                with suppress(UsageError):
                    found |= {name for name, _ in make_plan(one).env}
    assert found == PLANNED


def test_what_was_deployed_from_a_file_can_be_planned_anew(revise: Revise) -> None:
    """A plan that was read from an SDL knows less than one from a request: of a Whisper, no context."""
    plan = make_plan(DeployRequest(model="whisper", engine="llamacpp", name="one"))
    written = plan_of(render_sdl(plan), "one", source="one.yaml")
    assert written.context == 0
    assert revise(written, replicas=2).replicas == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": 0}, "--replicas 0 is not possible"),
        ({"context": 0}, "--context 0 is not possible"),
        ({"nodes": 0}, "--nodes 0 is not possible"),
        ({"nodes": 2}, "one machine"),
        ({"max_price": 0.0}, "is no price"),
        ({"engine": "nonesuch"}, "no engine"),
    ],
)
def test_what_cannot_be_is_refused(revise: Revise, changes: dict[str, Any], words: str) -> None:
    """Nothing that was named is passed over, not even a nought."""
    with pytest.raises(UsageError, match=words):
        revise(TINY, **changes)


def test_every_option_of_a_plan_can_be_changed(here: Run) -> None:
    """`update` takes what says which model is wanted and on what, but for name and admin key; no defaults."""

    def options(command: str) -> set[str]:
        return {word for word in here(command, "--help").out.split() if word.startswith("--")}

    shared = options("deploy") & options("plan") & options("render") - {"--name", "--manage"}
    assert {"--nodes", "--model", "--gpu", "--no-volume"} <= shared
    assert shared <= options("update")
    assert "[default: llamacpp]" in here("plan", "--help").out
    assert "[default: llamacpp]" not in here("update", "--help").out


def test_an_sdl_is_read_within_bounds(here: Run, home: Home, tmp_path: Path, monkeypatch: Any) -> None:
    """A file without an end is refused, not read; what is piped in is a file too."""
    path = record(here)
    text = Path(path).read_text()
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    said = here("update", "tiny-llamacpp", str(large), "--json")
    assert (said.code, said.error["type"]) == (2, "BadSdl")
    assert here("update", "tiny-llamacpp", "/dev/zero", "--json").code == 2

    changed = text.replace("AKASHLLM_PORT=8000", "AKASHLLM_PORT=8001").encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(changed)))
    said = here("update", "tiny-llamacpp", "-", "--dry-run", "--json")
    assert said.document["in_place"] == ["llm: AKASHLLM_PORT changes"]


def test_a_file_says_what_runs(here: Run, home: Home, tmp_path: Path) -> None:
    """The model, the price and the number of another SDL are the plan's; what it leaves as it is stays."""
    path = Path(record(here))
    other = make_plan(DeployRequest(model="qwen3:8b", name="other", quant="Q8_0", replicas=2))
    file = tmp_path / "other.yaml"
    with Store(home) as store:
        row = store.find("tiny-llamacpp")
        before = Plan.from_dict(row.plan)

        def written(text: str) -> Plan:
            file.write_text(text)
            market = LocalMarket(home.local)
            return revised(Out(), store, row, market, Wanted(file=file, changes={}, env=()))[0]

        after = written(render_sdl(other))
        kept = written(path.read_text().replace("env:\n", "env:\n      - AKASHLLM_QUEUE=7\n"))
    assert (after.name, after.model.alias, after.engine) == (before.name, other.model.alias, "llamacpp")
    assert (after.replicas, after.quant, after.image, after.env) == (2, "", other.image, other.env)
    assert after.max_price_hour == pytest.approx(other.max_price_hour, rel=0.01)
    assert {one.model for one in after.gpus} == {one.model for one in other.gpus}
    assert kept == replace(before, env=tuple(sorted((*before.env, ("AKASHLLM_QUEUE", "7")))))


def test_what_never_came_to_an_sdl_is_a_sentence(here: Run, home: Home) -> None:
    """A deployment that failed before anything was written cannot be changed, and why is said."""
    with Store(home) as store:
        row = store.add("one", "local", make_plan(TINY).as_dict(), "plan")
        store.update(row.id, state="active")
    for words in (("update", "one"), ("key", "one", "--rotate", "--yes")):
        said = here(*words, "--json")
        assert (said.code, said.error["type"]) == (2, "UsageError")
        assert "never started" in said.error["message"]
