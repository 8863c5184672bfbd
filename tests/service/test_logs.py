"""What is written down, and what never is."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest

from akashllm.server import logs
from akashllm.server.domain import Event, Generation
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine
from tests.service.support import BEARER, KEY, serving

PROMPT = "canary-prompt-that-nobody-logs"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the service's logging would write to stderr; the process's own logging is put back afterwards."""
    names = ["", "akashllm", "uvicorn", "uvicorn.error", "akashllm.access"]
    before = [
        (logging.getLogger(name), logging.getLogger(name).handlers[:], logging.getLogger(name).level)
        for name in names
    ]
    shown = warnings.showwarning
    stream = io.StringIO()
    logs.configure(Settings(api_key=KEY, log_level="debug"), stream)
    yield stream
    logging.captureWarnings(False)
    warnings.showwarning = shown
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


async def test_a_request_is_one_line(written: io.StringIO) -> None:
    """Method, path template, status, time, tokens and request id, as JSON; no prompt, path, query or key."""
    async with serving(api_key=KEY) as service, service.client(headers=BEARER) as client:
        response = await client.post(
            "/api/generate?secret=1",
            json={"model": "tiny", "prompt": PROMPT},
            headers={"X-Request-ID": "my-id"},
        )
        assert PROMPT in response.text
        await client.get(f"/v1/models/{PROMPT}")
        await client.get(f"/{PROMPT}")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    first, second, third = (line for line in lines if line["logger"] == "akashllm.access")
    assert first["method"] == "POST"
    assert first["route"] == "/api/generate"
    assert first["status"] == 200
    assert first["request_id"] == "my-id"
    assert first["prompt_tokens"] == 1
    assert first["completion_tokens"] == 2
    assert first["ms"] >= first["first_token_ms"] > 0
    assert second["status"] == 404
    assert third["route"] == "-"
    assert PROMPT not in written.getvalue()
    assert "secret" not in written.getvalue()
    assert KEY not in written.getvalue()


async def test_the_key_is_nowhere(written: io.StringIO) -> None:
    """In every way of failing, neither the log nor a response has the key in it."""

    class Leaky(ScriptedEngine):
        async def generate(self, request: Generation) -> AsyncIterator[Event]:
            if self.requests:
                raise RuntimeError(f"leak {KEY}")
            async for event in super().generate(request):
                yield event

    engine = Leaky({"die": Reply("a b", die_after=1)})
    bodies = []
    async with serving(engine, api_key=KEY) as service, service.client() as client:
        for headers in ({}, BEARER, {"Authorization": f"Bearer {KEY}x"}, {"X-Api-Key": KEY}):
            for path in ("/health", "/", "/version", "/metrics", "/nope", f"/{KEY}", f"/api/tags?key={KEY}"):
                response = await client.get(path, headers=headers)
                bodies.append(response.text + str(response.headers))
            for prompt in ("die", "hi", KEY[:0]):
                response = await client.post(
                    "/api/generate", json={"model": "tiny", "prompt": prompt}, headers=headers
                )
                bodies.append(response.text + str(response.headers))
    assert "RuntimeError" in written.getvalue()
    assert KEY not in written.getvalue()
    assert not [body for body in bodies if KEY in body]


def test_lines_are_bounded_and_whole(written: io.StringIO) -> None:
    """A message of any length or content is one line of bounded length that parses."""
    logger = logging.getLogger("akashllm.engine")
    logger.warning("x" * 1_000_000)
    logger.warning("a\nb\r\x1b[31m\u2028 %s", "c")
    lines = written.getvalue().splitlines()
    assert len(lines) == 2
    assert len(lines[0]) < 3000
    assert json.loads(lines[1])["message"] == "a\nb\r\x1b[31m\u2028 c"


def test_text_lines_have_no_escapes(written: io.StringIO) -> None:
    """The text format neutralises what would act on a terminal."""
    logs.configure(Settings(log_format="text"), written)
    logging.getLogger("akashllm.engine").warning("a\nb\x1b[31m")
    assert written.getvalue().count("\n") == 1
    assert "\x1b" not in written.getvalue()
