"""A market, its chain, and the gateway of its one provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from akashllm.market.base import Lease
from akashllm.market.gateway import Gateway
from akashllm.market.gateway_tls import CHAIN_VARIABLE
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import fill
from akashllm.testing.certificates import Certificate, Signer, self_signed
from akashllm.testing.gateway import GatewayServer
from akashllm.testing.market import MarketServer, PaperRunner, Provider, World
from akashllm.testing.market.world import OWNER

PROVIDER = "akash1provider"


@dataclass
class TalkingRunner(PaperRunner):
    """Says a line for each time it is asked."""

    said: list[str] = field(default_factory=lambda: ["one", "two", "three"])
    then: list[str] = field(default_factory=list)
    at_the_end: Callable[[], None] = lambda: None

    def lines(self, dseq: str) -> Sequence[str]:
        """What was said; one more each time, and something happens after the last."""
        if self.then:
            self.said.append(self.then.pop(0))
        else:
            self.at_the_end()
        return list(self.said)


@dataclass
class Place:
    """A market, its chain, and the gateway of its one provider."""

    market: MarketServer
    gateway: GatewayServer
    signer: Signer
    runner: TalkingRunner
    dseq: str

    @property
    def lease(self) -> Lease:
        """The lease that runs."""
        return Lease(dseq=self.dseq, provider=PROVIDER)

    def client(self, **changes: Any) -> Gateway:
        """A client with good tokens."""

        def token(scopes: Sequence[str]) -> str:
            permission = {"provider": PROVIDER, "access": "scoped", "scope": list(scopes)}
            leases = {"access": "granular", "permissions": [permission]}
            return self.signer.mint({"owner": OWNER, "ttl": 60, "leases": leases})

        return Gateway(**{"host_uri": self.gateway.host_uri, "provider": PROVIDER, "token": token, **changes})


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlace]:
    """`make_place(presented=..., published=...)`: certificates the gateway shows and the chain knows."""
    plan = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="t"))
    sdl = fill(render_sdl(plan), {"AKASHLLM_API_KEY": "k" * 20})
    with ExitStack() as stack:

        def make(
            presented: Certificate | None = None,
            published: Sequence[Certificate] | None = None,
            **changes: Any,
        ) -> Place:
            signer, runner = Signer(), TalkingRunner()
            presented = presented or self_signed(PROVIDER)
            world = World(providers=[Provider(address=PROVIDER, runner=runner)])
            market = stack.enter_context(MarketServer(world, mint=signer.mint))
            gateway = stack.enter_context(GatewayServer(world, PROVIDER, presented, signer, **changes))
            known = [presented] if published is None else published
            world.certificates[PROVIDER] = [one.published for one in known]
            world.providers[0].host_uri = gateway.host_uri
            monkeypatch.setenv(CHAIN_VARIABLE, market.url)
            deployed = world.create({"sdl": sdl})
            world.lease(deployed.dseq, PROVIDER, deployed.manifest)
            return Place(market, gateway, signer, runner, deployed.dseq)

        yield make
