"""A market to test against: Console's HTTP API, what stands behind it, and providers that run a manifest."""

from __future__ import annotations

from akashllm.testing.market.faults import Fault, Faults
from akashllm.testing.market.providers import ContainerRunner, LocalRunner, PaperRunner, Provider, Runner
from akashllm.testing.market.server import MarketServer
from akashllm.testing.market.world import Shape, World

__all__ = [
    "ContainerRunner",
    "Fault",
    "Faults",
    "LocalRunner",
    "MarketServer",
    "PaperRunner",
    "Provider",
    "Runner",
    "Shape",
    "World",
]
