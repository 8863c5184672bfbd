"""A keyring, a node and a world behind Akash's command line; a home; a clock that nobody waits for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from akashllm.market.order import Order
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_cli import Cli
from akashllm.market.wallet_journal import Orders
from akashllm.state import Home, Store
from akashllm.testing.market import World
from akashllm.testing.wallet import FakeCommand
from akashllm.testing.wallet.command import CHAIN, NODE
from tests.market.deploying import KEY, PROVIDERS, provider, tiny
from tests.market.scripted import Ticking

__all__ = ["KEY", "PROVIDERS", "provider"]

ENVIRON = {"AKASH_NODE": NODE, "AKASH_CHAIN_ID": CHAIN, "AKASH_KEYRING_BACKEND": "test"}


@dataclass
class Place:
    """A command and one user's machine."""

    command: FakeCommand
    home: Home

    @property
    def world(self) -> World:
        """What stands behind the node."""
        return self.command.world

    @property
    def orders(self) -> Orders:
        """What this machine remembers."""
        return Orders(self.home.root / "wallet")

    def wallet(self, key: str = "mine", environ: dict[str, str] | None = None) -> WalletMarket:
        """This user's way to it, without starting a process."""
        cli = Cli(
            path=f"/bin/{self.command.name}",
            name="akt" if self.command.name == "akt" else "provider-services",
            environ={**ENVIRON, **(environ or {})},
            run=self.command.run,
            stream=self.command.stream,
            feed=self.command.feed,
        )
        return WalletMarket(cli=cli, orders=self.orders, key=key, clock=Ticking())


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place() -> Iterator[MakePlace]:
    """`make_place(providers=..., name="akt")`."""
    made: list[Place] = []
    # Each step is flushed to the disk, and a test need not wait for a real one.
    memory = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def make(name: str = "provider-services", **world: Any) -> Place:
        whole = World(**{"providers": [provider(one) for one in PROVIDERS], **world})
        home = Home(Path(memory.name) / f"home{len(made)}").prepare()
        made.append(Place(FakeCommand(whole, name=name), home))
        return made[-1]

    yield make
    for place in made:
        place.world.clear()
    memory.cleanup()


@pytest.fixture(params=["provider-services", "akt"])
def place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """With either command."""
    return make_place(name=request.param)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """The user's record."""
    with Store(place.home) as store:
        yield store


@pytest.fixture(scope="session")
def order() -> Order:
    """The bundled model, as Akash would run it."""
    return tiny()
