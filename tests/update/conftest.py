"""Markets whose services tell their revision, on paper and as processes; a home for each test."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from akashllm.market.base import Market
from akashllm.market.choose import Wish, choose
from akashllm.market.order import Order
from akashllm.market.probe import Health
from akashllm.market.updating import Updater
from akashllm.state import Home, Store
from akashllm.testing.market import MarketServer, PaperRunner, Provider, Shape, World
from akashllm.testing.wallet import FakeCommand
from tests.console import conftest as console
from tests.market.deploying import KEY, tiny
from tests.market.scripted import Ticking, Verdict
from tests.wallet import conftest as wallet

__all__ = ["KEY"]


@dataclass
class Paper(PaperRunner):
    """Says of each deployment what its manifest makes of it, at an address of its own."""

    started: list[tuple[str, str]] = field(default_factory=list)

    def start(self, dseq: str, sdl: str, manifest: str) -> None:
        """Noted, with its revision."""
        super().start(dseq, sdl, manifest)
        self.started.append((dseq, environment(manifest).get("AKASHLLM_REVISION", "")))

    def url(self, dseq: str) -> str | None:
        """Loopback, with the end of the number for a port."""
        return f"http://127.0.0.1:{int(dseq) % 50_000 + 10_000}" if dseq in self.running else None

    def at(self, url: str) -> dict[str, str]:
        """The environment of what answers there; empty where nothing does."""
        return next((environment(self.running[one]) for one in self.running if self.url(one) == url), {})

    def ask(self, url: str, key: str | None) -> Health:
        """`/health` of what answers there: STAND_IN in its environment makes it misbehave."""
        env = self.at(url)
        told = env.get("STAND_IN", "")
        if not env or told == "silent":
            return Health("unreachable")
        revision = "" if told == "mute" else env.get("AKASHLLM_REVISION", "")
        if told == "failed":
            return Health("failed", reason="no memory", revision=revision)
        assert key == env["AKASHLLM_API_KEY"] or told == "slow"
        if told == "slow":
            return Health("loading", 10.0, "downloading m.gguf: 1.0 of 9.0 GiB", revision)
        return Health("ready", revision=revision)

    def answers(self, url: str, key: str) -> int | None:
        """With which status it answers to a key."""
        env = self.at(url)
        return None if not env else 200 if key == env["AKASHLLM_API_KEY"] else 401

    def verify(self, url: str, *, api_key: str, model: str, progress: Any) -> Verdict:
        """Green, unless STAND_IN says otherwise."""
        del model, progress
        env = self.at(url)
        return Verdict(ok=env.get("AKASHLLM_API_KEY") == api_key and env.get("STAND_IN") != "broken")


def environment(manifest: str) -> dict[str, str]:
    """The only service's variables."""
    ((service,),) = [group["services"] for group in json.loads(manifest)]
    return {name: value for name, _, value in (entry.partition("=") for entry in service["env"])}


@dataclass
class Scene:
    """One market with one user."""

    market: Market
    home: Home
    world: World
    paper: Paper
    trouble: Callable[..., None]

    def updater(self, store: Store, **changes: Any) -> Updater:
        """Waits for nobody."""
        usual: dict[str, Any] = {
            "verify": self.paper.verify,
            "clock": Ticking(),
            "ask": self.paper.ask,
            "answers": self.paper.answers,
            "choose": partial(choose, wish=Wish()),
        }
        return Updater(market=self.market, store=store, **{**usual, **changes})

    def runs(self, dseq: str | None) -> dict[str, str]:
        """The environment of what runs under a number."""
        return environment(self.paper.running[dseq or ""])


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that no disk has to be waited for: each step is flushed to it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture(params=["console", "console-newer", "wallet", "wallet-akt"])
def scene(request: pytest.FixtureRequest, memory: Path) -> Iterator[Scene]:
    """Console in both its shapes, the wallet with both its commands."""
    paper = Paper()
    shape = Shape.newer() if request.param == "console-newer" else Shape()
    names = ("akash1cheap", "akash1middle")
    world = World(providers=[console.provider(name, runner=paper) for name in names], shape=shape)
    home = Home(memory / "home").prepare()
    if request.param.startswith("wallet"):
        command = FakeCommand(world, name="akt" if request.param == "wallet-akt" else "provider-services")
        place = wallet.Place(command, home)
        yield Scene(place.wallet(), home, world, paper, command.trouble)
        return
    with MarketServer(world, key=console.CANARY) as server:
        market = console.Place(server, home).console()
        yield Scene(market, home, world, paper, server.faults.add)
        market.close_connections()
    assert server.broken == []


@pytest.fixture
def store(scene: Scene) -> Iterator[Store]:
    """The user's record."""
    with Store(scene.home) as store:
        yield store


@pytest.fixture(scope="session")
def order() -> Order:
    """The bundled model, as Akash would run it."""
    return tiny(attempts=2)


def provider(name: str, **changes: Any) -> Provider:
    """One of the two."""
    return console.provider(name, **changes)
