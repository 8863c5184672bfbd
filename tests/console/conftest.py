"""A market over HTTP, an account on it, a home of its own, and a clock that does not make anybody wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from akashllm.market.console import ConsoleMarket
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_journal import Journal
from akashllm.market.console_key import ApiKey
from akashllm.market.order import Order
from akashllm.state import Home, Store
from akashllm.testing.market import MarketServer, Shape, World
from tests.market.deploying import KEY, PROVIDERS, provider, tiny
from tests.market.scripted import Ticking

__all__ = ["KEY", "PROVIDERS", "provider"]

CANARY = "ac.sk.test." + "c0ffee42" * 8
"""Console's key: it may turn up nowhere."""


@dataclass
class Place:
    """A market and one user's machine."""

    server: MarketServer
    home: Home

    @property
    def world(self) -> World:
        """What stands behind the server."""
        return self.server.world

    def console(self, *, patience: float = 5.0, hours: int | None = None) -> ConsoleMarket:
        """This user's way to it. `patience` is how long a silence is borne, in seconds."""
        http = ConsoleHttp(
            ApiKey(self.server.key),
            base=self.server.url,
            clock=Ticking(),
            patience=(patience, patience),
            chance=lambda: 0.5,
        )
        journal = Journal(self.home.root / "console" / "orders")
        return ConsoleMarket(http=http, journal=journal, clock=Ticking(), hours=hours)


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place(tmp_path: Path) -> Iterator[MakePlace]:
    """`make_place(shape=..., providers=...)`: a market that never broke its contract."""
    servers: list[MarketServer] = []

    def make(**world: object) -> Place:
        made = World(**{"providers": [provider(name) for name in PROVIDERS], **world})  # type: ignore[arg-type]
        server = MarketServer(made, key=CANARY)
        server.__enter__()
        servers.append(server)
        return Place(server, Home(tmp_path / f"home{len(servers)}").prepare())

    yield make
    for server in servers:
        server.close()
        assert server.broken == []


@pytest.fixture(params=["august", "newer"])
def place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """A market of either API shape."""
    return make_place(shape=Shape() if request.param == "august" else Shape.newer())


@pytest.fixture
def console(place: Place) -> Iterator[ConsoleMarket]:
    """Its client."""
    market = place.console()
    yield market
    market.close_connections()


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """The user's record."""
    with Store(place.home) as store:
        yield store


@pytest.fixture(scope="session")
def order() -> Order:
    """The bundled model, as Akash would run it."""
    return tiny()
