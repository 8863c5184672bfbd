"""Servers that a module shares: one a parser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.support import KEY, Service, serving_apart


@pytest.fixture(scope="module", params=["httptools", "h11"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A server with a key, under each parser."""
    with serving_apart(
        pure=request.param == "h11",
        api_key=KEY,
        max_body_bytes=4 * 1024 * 1024,
        header_timeout=0.4,
        body_timeout=0.5,
    ) as service:
        yield service
