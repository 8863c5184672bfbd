"""Silence on demand: what the smoke test asks to see whether an ingress survives a slow first token."""

from __future__ import annotations

import asyncio

import pytest

from akashllm.smoke import run
from akashllm.smoke.client import Client
from akashllm.testing.engine import ScriptedEngine
from tests.service.support import BEARER, KEY, serving


async def test_a_probe_is_silent_but_for_its_heartbeat() -> None:
    """The answer comes after the silence, and bytes that mean nothing come before it."""
    async with serving(api_key=KEY) as service:
        client = Client(service.url, key=KEY)
        reply = await asyncio.to_thread(client.call, "GET", "/probe?silence=0.4&heartbeat=0.05")

    assert reply.json() == {"silence": 0.4, "heartbeat": 0.05}
    assert reply.body.startswith(b"    ")
    assert len(reply.pieces) > 4


@pytest.mark.parametrize(
    "query", ["silence=121", "silence=-1", "silence=nan", "silence=x", "silence=1&heartbeat=16"]
)
async def test_a_probe_has_bounds(query: str) -> None:
    """Neither longer than two minutes nor with a heartbeat rarer than the service's own."""
    async with serving(api_key=KEY) as service, service.client() as client:
        reply = await client.get(f"/probe?{query}", headers=BEARER)

    assert reply.status_code == 400
    assert "must be seconds" in reply.json()["error"]


async def test_probes_are_few() -> None:
    """The fifth at once is told to come back, so that probes cannot pile up."""
    async with serving(api_key=KEY) as service, service.client(headers=BEARER) as client:
        for _ in range(4):
            await service.runtime.probes.acquire()
        fifth = await client.get("/probe?silence=0.5&heartbeat=0.1")

        assert fifth.status_code == 503
        assert fifth.headers["retry-after"]
        service.runtime.probes.release()
        assert (await client.get("/probe?silence=0.1&heartbeat=0.1")).status_code == 200


async def test_a_probe_needs_the_key() -> None:
    """Nobody can hold connections open without one."""
    async with serving(api_key=KEY) as service, service.client() as client:
        assert (await client.get("/probe?silence=0.1")).status_code == 401


async def test_the_smoke_test_finds_the_probe() -> None:
    """`slow-first-token` is judged, not skipped, on our own service."""
    async with serving(ScriptedEngine(), api_key=KEY) as service:
        report = await asyncio.to_thread(run, service.url, api_key=KEY, only=["slow-first-token"])

    assert [result.verdict for result in report.results] == ["pass"]
