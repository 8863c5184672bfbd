"""One real engine for the whole directory; those that break it start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from akashllm.models import TINY
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[LlamaCppEngine]:
    """An engine on the bundled model, closed whatever happens."""
    engine = LlamaCppEngine(TINY, name="tiny:latest", **options)
    try:
        await engine.load()
        yield engine
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[LlamaCppEngine]:
    """The bundled model, 16 slots."""
    async with running(slots=16) as engine:
        yield engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the session's engine run in the session's loop."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.engine)
