"""Another version of what runs: it takes its place or leaves everything as it was, on every market."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from akashllm.errors import AkashllmError, CheckFailed, MarketError, ProviderFailed, UsageError
from akashllm.market.closing import close
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import Order
from akashllm.market.updating import NEXT_KEY, recorded_secrets
from akashllm.market.watching import IDLE
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private, write_private
from akashllm.testing.market import Fault
from akashllm.testing.wallet import Trouble
from tests.market.scripted import Killed, MortalStore, Notes

from .conftest import KEY, Scene
from .test_changes import BARE


def with_env(order: Order, *lines: str) -> Order:
    """The order with more variables."""
    items = "".join(f'      - "{line}"\n' for line in lines)
    return replace(order, sdl=order.sdl.replace("    env:\n", f"    env:\n{items}"))


def dearer(order: Order) -> Order:
    """The order with another price: a new lease."""
    return replace(order, sdl=order.sdl.replace('amount: "33.33"', 'amount: "44"'))


def deployed(scene: Scene, store: Store, order: Order) -> Deployment:
    """What runs at first."""
    return scene.updater(store).deploy(order).deployment


def test_in_place_the_new_version_runs_under_the_same_lease(scene: Scene, store: Store, order: Order) -> None:
    """Same number, same key, another environment; the record and its files are those of the new version."""
    row = deployed(scene, store, order)
    outcome = scene.updater(store).in_place(row, with_env(order, "A_NEW=one"))

    now = store.get(row.id)
    assert (outcome.deployment.dseq, outcome.key, scene.world.created) == (row.dseq, KEY, 1)
    env = scene.runs(row.dseq)
    assert (env["A_NEW"], env["AKASHLLM_API_KEY"]) == ("one", KEY)
    assert len(env["AKASHLLM_REVISION"]) == 12
    assert (now.state, now.reason, "updating" in now.facts) == ("active", "", False)
    assert "A_NEW=one" in read_private(scene.home.directory(row.name, row.id) / "deploy.yaml")
    assert KEY not in read_private(scene.home.directory(row.name, row.id) / "deploy.yaml")
    assert [event.phase for event in store.events(row.id) if event.step == "update"] == ["before", "after"]
    close(store, scene.market, now)
    assert scene.world.open() == set()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("failed", "no memory"),
        ("slow", "its model is loading"),
        ("mute", "does not say that it is the new version"),
        ("silent", "nobody answers"),
        ("broken", "broken promise"),
    ],
)
def test_a_version_that_will_not_do_makes_way_for_the_old_one(
    scene: Scene, store: Store, order: Order, how: str, words: str
) -> None:
    """It fails, never loads, tells no revision, is silent or breaks a promise: the old one runs again."""
    row = deployed(scene, store, order)
    kind, notes = CheckFailed if how == "broken" else MarketError, Notes()
    with pytest.raises(kind, match=f"{words}.*runs the old version again"):
        scene.updater(store, progress=notes).in_place(row, with_env(order, f"STAND_IN={how}"))

    assert ("downloading m.gguf: 1.0 of 9.0 GiB 10.0" in notes.said) == (how == "slow")
    assert ("nobody answers None" in notes.said) == (how == "silent")
    assert "STAND_IN" not in scene.runs(row.dseq)
    now = store.get(row.id)
    assert (now.state, now.plan, "updating" in now.facts) == ("active", row.plan, False)
    assert "STAND_IN" not in read_private(scene.home.directory(row.name, row.id) / "deploy.yaml")
    revisions = [revision for dseq, revision in scene.paper.started if dseq == row.dseq]
    assert len(set(revisions)) == 3
    assert scene.world.open() == {row.dseq}


def test_an_old_replica_does_not_pass_for_the_new_version(scene: Scene, store: Store, order: Order) -> None:
    """A provider that goes on running the old container, and says it took the new manifest, is found out."""
    row = deployed(scene, store, order)
    before = dict(scene.paper.running)
    scene.paper.start = lambda *_args: None  # type: ignore[method-assign] # the provider does nothing

    with pytest.raises(ProviderFailed, match=r"what answers does not say.*so did going back"):
        scene.updater(store).in_place(row, with_env(order, "A_NEW=one"))

    assert scene.paper.running == before
    assert "so did going back" in store.get(row.id).reason


def test_what_needs_another_lease_is_refused_in_place(scene: Scene, store: Store, order: Order) -> None:
    """The market refuses other groups, nothing restarts, and the message says that it runs as before."""
    row = deployed(scene, store, order)
    started = list(scene.paper.started)
    with pytest.raises(MarketError, match="runs as before"):
        scene.updater(store).in_place(row, dearer(order))

    assert scene.paper.started == started
    assert "updating" not in store.get(row.id).facts


def test_a_lost_reply_to_an_update_is_no_failure(scene: Scene, store: Store, order: Order) -> None:
    """The market acted and its answer never came: the revision shows that it did."""
    row = deployed(scene, store, order)
    if isinstance(scene.market, ConsoleMarket):
        scene.trouble(*[Fault("PUT /v1/deployments/{dseq}", "reset", "after")] * 4)
    else:
        scene.trouble(Trouble("tx deployment update", "killed", "after"))
    scene.updater(store).in_place(row, with_env(order, "A_NEW=one"))

    assert scene.runs(row.dseq)["A_NEW"] == "one"


def test_a_new_lease_is_verified_before_the_old_one_is_closed(scene: Scene, store: Store, order: Order) -> None:
    """The name passes to the second deployment with its key; one deployment is left, here and at the market."""
    row = deployed(scene, store, order)
    outcome = scene.updater(store).beside(row, dearer(order))

    (now,) = store.all()
    assert (now.id, now.name, now.plan["name"]) == (outcome.deployment.id, row.name, row.name)
    assert (outcome.key, now.dseq != row.dseq) == (KEY, True)
    assert scene.world.open() == {now.dseq}
    assert scene.runs(now.dseq)["AKASHLLM_API_KEY"] == KEY
    assert store.get(row.id).state == "closed"
    assert read_private(scene.home.directory(now.name, now.id) / "api-key").strip() == KEY
    scene.updater(store).in_place(now, with_env(dearer(order), "A_NEW=two"))
    assert scene.runs(now.dseq)["A_NEW"] == "two"
    close(store, scene.market, store.get(now.id))
    assert scene.world.open() == set()
    assert scene.world.balance == 100


def test_who_closes_an_idle_deployment_closes_the_new_one_too(scene: Scene, store: Store, order: Order) -> None:
    """The hours without a request after which `watch` closes it pass to the second deployment."""
    row = deployed(scene, store, replace(order, idle=3.0))
    outcome = scene.updater(store).beside(row, dearer(order))

    assert store.get(outcome.deployment.id).facts[IDLE] == 3.0


@pytest.mark.parametrize("how", ["failed", "slow", "broken"])
def test_a_second_lease_that_fails_is_closed_and_the_first_stays(
    scene: Scene, store: Store, order: Order, how: str
) -> None:
    """The old deployment never stops, the new one leaves neither lease nor row."""
    row = deployed(scene, store, order)
    with pytest.raises(AkashllmError, match=f"{row.name} runs as before"):
        scene.updater(store).beside(row, with_env(dearer(order), f"STAND_IN={how}"))

    (left,) = store.all()
    assert (left.id, left.name, left.state) == (row.id, row.name, "active")
    assert scene.world.open() == {row.dseq}
    assert scene.world.total() == 100


def test_a_lease_that_cannot_be_closed_is_named(scene: Scene, store: Store, order: Order) -> None:
    """The new version runs; the old lease is listed under its own name, and the next update closes it."""
    row = deployed(scene, store, order)
    if isinstance(scene.market, ConsoleMarket):
        scene.trouble(*[Fault("DELETE /v1/deployments/{dseq}", "500")] * 4)
    else:
        scene.trouble(*[Trouble("tx deployment close", "unreachable")])
    with pytest.raises(MarketError, match="old lease is still open") as caught:
        scene.updater(store).beside(row, dearer(order))
    assert f"akashllm close {row.name}-old" in caught.value.hint
    assert {one.name for one in store.all()} == {row.name, f"{row.name}-old"}
    assert len(scene.world.open()) == 2

    close(store, scene.market, store.find(f"{row.name}-old"))
    assert len(scene.world.open()) == 1


@pytest.mark.parametrize("scene", ["console-newer", "wallet"], indirect=True)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", range(1, 24))
def test_killed_anywhere_no_lease_is_lost_and_the_same_command_goes_on(
    scene: Scene, order: Order, place: int, after: bool
) -> None:
    """Kill -9 at any change of the record: what is open is listed, and updating again ends with one lease."""
    with MortalStore(scene.home) as store:
        row = deployed(scene, store, order)
        store.dies_at, store.after = store.changes + place, after
        with contextlib.suppress(Killed):
            scene.updater(store).beside(row, dearer(order))
    with Store(scene.home) as store:
        assert scene.world.open() <= {one.dseq for one in store.all()} | held(scene, store)
        current = store.named(row.name)
        assert current is not None
        if 'amount: "44"' not in read_private(scene.home.directory(row.name, current.id) / "deploy.yaml"):
            scene.updater(store).beside(current, dearer(order))
        for one in store.all():
            if one.name != row.name:
                close(store, scene.market, one)
        (now,) = store.all()
        assert scene.world.open() == {now.dseq}
        assert scene.world.total() == 100


def held(scene: Scene, store: Store) -> set[str | None]:
    """Numbers that the market's own list ties to a row."""
    references = {one.reference for one in store.all()}
    return {one.dseq for one in scene.market.holdings() if one.reference in references}


def test_a_key_is_exchanged_and_the_old_one_refused(scene: Scene, store: Store, order: Order) -> None:
    """The file, the manifest's record and the service have the new key; nothing has the old one."""
    row = deployed(scene, store, order)
    outcome = scene.updater(store).in_place(row, order, key="ak-new")

    directory = scene.home.directory(row.name, row.id)
    assert outcome.key == "ak-new"
    assert read_private(directory / "api-key") == "ak-new\n"
    assert scene.runs(row.dseq)["AKASHLLM_API_KEY"] == "ak-new"
    assert not (directory / NEXT_KEY).exists()
    for path in scene.home.root.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0


def test_a_key_that_is_not_taken_is_put_back(scene: Scene, store: Store, order: Order) -> None:
    """The new version fails: the old key is in force, in the file and at the service."""
    row = deployed(scene, store, order)
    with pytest.raises(MarketError, match="runs the old version again"):
        scene.updater(store).in_place(row, with_env(order, "STAND_IN=failed"), key="ak-new")

    directory = scene.home.directory(row.name, row.id)
    assert read_private(directory / "api-key").strip() == KEY
    assert scene.runs(row.dseq)["AKASHLLM_API_KEY"] == KEY
    assert not (directory / NEXT_KEY).exists()


def test_a_key_that_was_not_put_in_force_ends_with_the_deployment(
    scene: Scene, store: Store, order: Order
) -> None:
    """A rotation that was begun and not finished leaves no key behind what is closed."""
    row = deployed(scene, store, order)
    write_private(scene.home.directory(row.name, row.id) / NEXT_KEY, "ak-new")
    close(store, scene.market, row)

    left = [path for path in scene.home.root.rglob("*") if path.is_file()]
    assert not [path for path in left if b"ak-new" in path.read_bytes()]


def test_an_old_key_that_is_still_taken_is_said(scene: Scene, store: Store, order: Order) -> None:
    """A service that answers to both keys has not exchanged anything."""
    row = deployed(scene, store, order)
    with pytest.raises(CheckFailed, match="still answers to the old one"):
        scene.updater(store, answers=lambda _url, _key: 200).in_place(row, order, key="ak-new")


def test_a_rotation_that_was_killed_leaves_the_key_that_is_wanted(scene: Scene, order: Order) -> None:
    """The new key is on disk before the service has it: nobody is locked out."""
    with MortalStore(scene.home) as store:
        row = deployed(scene, store, order)
        store.dies_at, store.after = store.changes + 2, False
        with pytest.raises(Killed):
            scene.updater(store).in_place(row, order, key="ak-new")
    directory = scene.home.directory(row.name, row.id)
    assert scene.runs(row.dseq)["AKASHLLM_API_KEY"] == "ak-new"
    assert "ak-new" in read_private(directory / "api-key") + _maybe(directory / NEXT_KEY)
    with Store(scene.home) as store:
        assert "updating" in store.get(row.id).facts
        assert "again" in store.get(row.id).reason
        scene.updater(store).in_place(store.get(row.id), order, key="ak-new")
        assert read_private(directory / "api-key") == "ak-new\n"
        assert store.get(row.id).reason == ""


def _maybe(path: Path) -> str:
    return read_private(path) if path.exists() else ""


def test_only_what_runs_is_updated(scene: Scene, store: Store, order: Order) -> None:
    """What has ended, or was never finished, takes a deploy."""
    row = deployed(scene, store, order)
    scene.world.advance(100_000)
    with pytest.raises(UsageError, match="has ended"):
        scene.updater(store).in_place(row, order)
    close(store, scene.market, row)
    with pytest.raises(UsageError, match="not running"):
        scene.updater(store).beside(row, order)


def test_secrets_come_back_from_the_manifest() -> None:
    """Each placeholder's value is what its variable had."""
    sdl = BARE.replace('env: [X=1, "Y=a b"]', 'env: ["HF_TOKEN=${HF_TOKEN}", B=plain, "C=${OTHER}"]')
    manifest = '[{"name": "p", "services": [{"name": "a", "env": ["HF_TOKEN=hf_x", "B=plain", "C=x=y"]}]}]'
    assert recorded_secrets(sdl, manifest) == {"HF_TOKEN": "hf_x", "OTHER": "x=y"}
