"""The smoke test against the service in front of each upstream."""

from __future__ import annotations

import pytest

from akashllm.smoke import run
from tests.upstream.conftest import front

pytestmark = pytest.mark.engine

KEY = "of-the-service-0123456789"


def test_every_promise_holds(upstream: tuple[str, str]) -> None:
    """Both dialects keep every promise that a deployment is judged by, whatever the upstream."""
    with front(*upstream, key=KEY) as url:
        report = run(url, api_key=KEY)

    assert [f"{each.name}: {each.reason}" for each in report.broken] == []
    assert report.ok
