"""Where weights are kept on Akash: a provider's volume belongs to root, and not every image starts as root."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from akashllm.cli.app import run
from akashllm.cli.before import with_image
from akashllm.cli.out import Out
from akashllm.market import console, console_http, console_order
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import load
from akashllm.state import Home, Store
from akashllm.testing.images import NOWHERE, pretend_pushed
from akashllm.testing.market import MarketServer, World
from tests.console.conftest import provider
from tests.images.test_registry import image

KEY = "ac.sk.test." + "c0ffee42" * 8
DEPLOY = ("deploy", "--market", "console", "--yes", "--bid-wait", "0", "--timeout", "1", "--json")
MODEL = ("--model", "llama3.2:1b", "--cpu", "--name", "one")
NOBODY_BIDS = 9

Order = Callable[..., tuple[str, str]]


@pytest.fixture
def order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Order]:
    """Deploy on a market where nobody bids: the SDL that was ordered, and what was said."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", KEY)
    for module in (console, console_order):
        monkeypatch.setattr(module, "BETWEEN", 0.01)
    monkeypatch.setattr(console_http, "_BACKOFF", 0.01)
    home = Home.find()
    pretend_pushed(home)
    with MarketServer(World(providers=[provider("akash1one")], bids_after=10**6), key=KEY) as server:
        monkeypatch.setenv("AKASH_CONSOLE_API_URL", server.url)

        def ordered(*arguments: str) -> tuple[str, str]:
            before = set(home.root.rglob("deploy.yaml"))
            code = run((*DEPLOY, *arguments))
            said = capsys.readouterr()
            assert code == NOBODY_BIDS, said.err
            (written,) = set(home.root.rglob("deploy.yaml")) - before
            return written.read_text(), said.err

        yield ordered
    assert server.broken == []


def storage(sdl: str) -> dict[bool, int]:
    """GiB of the only service: by whether they outlive the container."""
    (compute,) = load(sdl).compute.values()
    return {bool(one.persistent): one.size >> 30 for one in compute.storage}


@pytest.mark.parametrize("user", ["10001:10001", "0:0"])
def test_a_volume_is_ordered_for_who_can_write_to_it(order: Order, registry: str, user: str) -> None:
    """An image that starts as root has a volume; any other keeps weights on its own disk, made large enough."""
    image(registry, "me/who", "1", [b"a"], {"User": user})

    sdl, said = order(*MODEL, "--image", f"{registry}/me/who:1")

    found = storage(sdl)
    if user == "0:0":
        assert found[True] >= 5
        assert "belong to root" not in said
    else:
        assert list(found) == [False]
        assert found[False] >= 5
        assert "/data" not in sdl
        assert "volume   none: volumes on Akash belong to root" in said
        assert "akashllm build --own-volume" in said
        assert f"own {found[False]} GiB" in said


def test_what_a_registry_does_not_tell_is_said(order: Order) -> None:
    """A registry that is away leaves the plan as it is, with a warning."""
    sdl, said = order(*MODEL)

    assert NOWHERE in sdl
    assert True in storage(sdl)
    assert "whom this image starts as cannot be read" in said


def test_trying_again_orders_the_same(order: Order, registry: str) -> None:
    """The second command plans as the first did, volume and all."""
    image(registry, "me/again", "1", [b"a"], {"User": "10001:10001"})

    (first, _), (second, _) = (order(*MODEL, "--image", f"{registry}/me/again:1") for _ in range(2))

    assert storage(first) == storage(second)


def test_a_file_is_ordered_as_it_stands(order: Order, registry: str, tmp_path: Path) -> None:
    """An SDL with a volume for an image that cannot write to it is ordered, with a warning."""
    image(registry, "me/file", "1", [b"a"], {"User": "10001:10001"})
    plan = make_plan(
        DeployRequest(model="llama3.2:1b", cpu_only=True, name="one", image=f"{registry}/me/file:1")
    )
    file = tmp_path / "one.yaml"
    file.write_text(render_sdl(plan))

    sdl, said = order("--sdl", str(file))

    assert sdl == file.read_text()
    assert "this image starts as another user, who cannot write there" in said


def test_what_was_decided_stays_while_a_registry_is_away(tmp_path: Path) -> None:
    """An attempt that is gone on with has the volume it began with, or none, whoever answers by now."""
    home = Home(tmp_path / "home").prepare()
    asked = DeployRequest(
        model="llama3.2:1b", cpu_only=True, name="one", image=f"{NOWHERE}:1@sha256:{'0' * 64}"
    )
    with_volume, without = (make_plan(replace(asked, persistent=kept)) for kept in (True, False))
    with Store(home) as store:
        assert with_image(Out(), store, with_volume, named=True, without_volume=lambda: without) == with_volume

        store.add("one", "console", json.loads(json.dumps(without.as_dict())), "plan")

        assert with_image(Out(), store, with_volume, named=True, without_volume=lambda: without) == without
