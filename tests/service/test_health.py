"""What the service says of itself: to anyone, to the holder of a key, to Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from akashllm.server.domain import Heard, Segment, Speech, Transcription, Usage
from akashllm.server.engine import State
from akashllm.server.hearing import Hearing
from akashllm.server.metrics import Metrics
from akashllm.testing.engine import Reply, ScriptedEngine
from tests.service.support import BEARER, KEY, serving, until


async def health(client: httpx.AsyncClient, **headers: str) -> tuple[int, dict[str, object]]:
    """The status and the body of /health."""
    response = await client.get("/health", headers=headers)
    return response.status_code, response.json()


async def test_health_follows_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Loading with its percent, ready, failed with its reason, which the log has too: 200 only when a request
    would be answered.
    """
    engine = ScriptedEngine(manual=True)
    async with serving(engine) as service, service.client() as client:
        await until(lambda: engine.state == "loading")
        assert await health(client) == (
            503,
            {"status": "loading", "model": "tiny:latest", "percent": 0.0, "reason": "loading"},
        )
        engine.progress(41.66)
        status, shown = await health(client)
        assert (status, shown["status"], shown["percent"]) == (503, "loading", 41.7)
        engine.finish_loading()
        assert await health(client) == (200, {"status": "ready", "model": "tiny:latest"})
        engine.become("starting", "the engine was killed; it is being restarted")
        status, shown = await health(client)
        assert (status, shown["status"]) == (503, "starting")
        assert "killed" in str(shown["reason"])
        engine.become("failed", "four restarts in a row failed")
        status, shown = await health(client)
        assert (status, shown["status"], shown["reason"]) == (503, "failed", "four restarts in a row failed")
        assert "tiny:latest cannot be served: four restarts in a row failed" in caplog.text
        assert (await client.get("/livez")).status_code == 200
        assert (await client.head("/health")).status_code == 503


async def test_the_port_answers_before_the_model_loads() -> None:
    """While the model loads the port is open, and a request waits for it instead of failing."""
    engine = ScriptedEngine(manual=True)
    async with serving(engine) as service, service.client() as client:
        assert (await client.get("/livez")).status_code == 200
        asking = asyncio.create_task(
            client.post("/api/generate", json={"model": "tiny", "prompt": "hi", "stream": False})
        )
        await until(lambda: service.runtime.admission.used == 1)
        assert not asking.done()
        engine.finish_loading()
        answer = (await asking).json()
        assert answer["response"] == "echo: hi"
        assert answer["load_duration"] > 0


async def test_a_failed_load_answers_with_the_reason() -> None:
    """A model that cannot be loaded is a 503 with the reason in both dialects; the process stays up."""
    engine = ScriptedEngine(manual=True)
    async with serving(engine) as service, service.client() as client:
        await until(lambda: engine.state == "loading")
        engine.fail_loading("the file is cut short")
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        for path in ("/api/chat", "/v1/chat/completions"):
            response = await client.post(path, json=chat)
            assert response.status_code == 503
            assert "cut short" in response.text
            assert response.headers["retry-after"]


async def test_a_restart_is_survived() -> None:
    """After the engine's child died and came back, requests are answered again."""
    engine = ScriptedEngine({"die": Reply("a b", die_after=1)})
    async with serving(engine) as service, service.client() as client:
        ask = {"model": "tiny", "prompt": "die", "stream": False}
        assert (await client.post("/api/generate", json=ask)).status_code == 500
        engine.become("starting", "restarting")
        asking = asyncio.create_task(client.post("/api/generate", json=ask | {"prompt": "hi"}))
        assert (await asking).status_code == 200
        assert (await health(client))[0] == 200


async def test_details_need_the_key() -> None:
    """The engine's log lines show only to the holder of a key."""

    class Talking(ScriptedEngine):
        log_lines = ("llama_model_load: /models/private.gguf",)

    async with serving(Talking(), api_key=KEY) as service, service.client() as client:
        _, shown = await health(client)
        assert "log" not in shown
        assert "idle_seconds" not in shown
        _, shown = await health(client, **BEARER)
        assert shown["log"] == ["llama_model_load: /models/private.gguf"]
        assert "idle_seconds" in shown
        _, shown = await health(client, Authorization="Bearer wrong")
        assert "log" not in shown


def test_only_work_of_a_model_ends_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, refusals and transcriptions are use; a look at /health or a list of models is none."""
    now = 1000.0
    monkeypatch.setattr("akashllm.server.metrics.time.monotonic", lambda: now)
    metrics = Metrics()
    uses: tuple[Callable[[], None], ...] = (
        lambda: metrics.outcome("done"),
        lambda: metrics.usage(Usage(prompt_tokens=1, completion_tokens=1)),
        lambda: metrics.request("/v1/audio/transcriptions", 200, 1.0),
    )
    for used in uses:
        now += 100
        metrics.request("/health", 200, 0.1)
        metrics.request("/v1/models", 200, 0.1)
        assert metrics.idle == 100
        used()
        assert metrics.idle == 0


async def test_each_kind_of_work_ends_idleness() -> None:
    """A completion, a chat and an embedding each set the clock back: embedding alone is use too."""
    async with serving(ScriptedEngine(), api_key=KEY) as service, service.client() as client:
        metrics = service.runtime.metrics
        for path, body in (
            ("/api/generate", {"model": "tiny", "prompt": "hi", "stream": False}),
            ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
            ("/api/embed", {"model": "tiny", "input": "hi"}),
        ):
            metrics._used -= 1000
            assert metrics.idle >= 1000
            assert (await client.post(path, json=body, headers=BEARER)).status_code == 200
            assert metrics.idle < 1000


async def test_a_model_on_its_way_is_no_idleness() -> None:
    """While weights come and a model loads the service is not idle, and it has not been so right after."""
    engine = ScriptedEngine(manual=True)
    async with serving(engine, api_key=KEY) as service, service.client() as client:
        await until(lambda: engine.loads == 1)
        service.runtime.metrics._used -= 10_000
        _, shown = await health(client, **BEARER)
        assert (shown["status"], shown["idle_seconds"]) == ("loading", 0)
        engine.finish_loading()
        await service.runtime.ready()
        _, shown = await health(client, **BEARER)
        assert isinstance(shown["idle_seconds"], float)
        assert shown["idle_seconds"] < 1000


class _Listening(ScriptedEngine):
    """Hears until it is told that the sound has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def transcribe(self, request: Transcription) -> AsyncIterator[Speech]:
        """One segment, when the test says so."""
        yield Heard(language="en", duration=1.0)
        await self.ended.wait()
        yield Segment(id=0, start=0, end=1, text=request.id)


async def test_a_long_recording_is_no_idleness() -> None:
    """A service that has been listening for hours is not idle, and counts from the end of the recording."""
    engine = _Listening()
    async with serving(engine, api_key=KEY) as service:
        hearing: Hearing = service.server.app.state.hearing
        metrics = service.runtime.metrics
        request = Transcription(id="x", model="tiny", path="", format="wav")
        async with contextlib.aclosing(hearing.transcribe(request)) as events:
            await anext(events)
            metrics._used -= 10_000
            assert metrics.idle == 0
            engine.ended.set()
            assert [event async for event in events]
        assert metrics.idle < 1000


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("text/plain", "text/plain"),
        ("application/json", "application/json"),
        ("application/json, */*;q=0.5", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
    ],
)
async def test_the_root_suits_its_client(accept: str | None, kind: str) -> None:
    """Everyone hears "Ollama is running"; who asks for JSON gets an overview, a browser a page, no scripts."""
    async with serving(api_key=KEY) as service, service.client() as client:
        response = await client.get("/", headers={"Accept": accept} if accept else {"Accept": ""})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        head = await client.head("/", headers={"Accept": accept or ""})
        assert (head.status_code, head.content) == (200, b"")
        if kind == "text/plain":
            assert response.text == "Ollama is running"
        elif kind == "application/json":
            assert response.json() == {
                "status": "ready",
                "model": "tiny:latest",
                "models": ["tiny:latest"],
                "slots": {"total": 8, "used": 0},
                "queue": {"waiting": 0, "limit": 64},
                "downloads": [],
            }
        else:
            assert "<script" not in response.text
            assert "tiny:latest" in response.text
            assert response.headers["content-security-policy"] == "default-src 'none'"


async def test_the_page_escapes_what_it_shows() -> None:
    """A reason from a model's file cannot become markup."""
    engine = ScriptedEngine(manual=True)
    async with serving(engine) as service, service.client() as client:
        engine.become("failed", "<img src=x onerror=alert(1)>")
        page = (await client.get("/", headers={"Accept": "text/html"})).text
        assert "<img" not in page
        assert "&lt;img" in page


async def test_metrics_count_what_happened() -> None:
    """Requests, tokens, waits, latencies, slots and state are there in Prometheus' format, behind the key."""
    engine = ScriptedEngine({"die": Reply("a b", die_after=1)})
    async with serving(engine, api_key=KEY) as service, service.client(headers=BEARER) as client:
        for prompt in ("one two three", "die"):
            await client.post("/api/generate", json={"model": "tiny", "prompt": prompt})
        await client.get("/nope/with/a/long/path")
        await client.get("/v1/models/tiny")
        await client.get("/openai/v1/models")
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = response.text.splitlines()
        for line in (
            'akashllm_http_requests_total{route="/api/generate",status="200"} 2.0',
            'akashllm_http_requests_total{route="-",status="404"} 1.0',
            'akashllm_http_requests_total{route="/v1/models/{name:path}",status="200"} 1.0',
            'akashllm_http_requests_total{route="/openai/v1/models",status="200"} 1.0',
            "akashllm_prompt_tokens_total 3.0",
            "akashllm_completion_tokens_total 4.0",
            'akashllm_generations_total{outcome="done"} 1.0',
            'akashllm_generations_total{outcome="engine_died"} 1.0',
            "akashllm_time_to_first_token_seconds_count 2.0",
            "akashllm_inter_token_latency_seconds_count 3.0",
            "akashllm_queue_seconds_count 2.0",
            'akashllm_state{state="ready"} 1.0',
            'akashllm_state{state="failed"} 0.0',
            "akashllm_slots 8.0",
            "akashllm_slots_used 0.0",
            "akashllm_queue_waiting 0.0",
        ):
            assert line in lines, line
        assert "/nope" not in response.text
        async with service.client() as stranger:
            assert (await stranger.get("/metrics")).status_code == 401


async def test_metrics_and_the_description_can_be_switched() -> None:
    """Metrics may be switched off; the API's description is off unless switched on."""
    async with serving(metrics=False, docs=True) as service, service.client() as client:
        assert (await client.get("/metrics")).status_code == 404
        described = (await client.get("/openapi.json")).json()
        assert "/api/chat" in described["paths"]
        ids = [op["operationId"] for ops in described["paths"].values() for op in ops.values()]
        assert len(ids) == len(set(ids))
    async with serving() as service, service.client() as client:
        assert (await client.get("/openapi.json")).status_code == 404
        assert (await client.get("/docs")).status_code == 404


async def test_the_version_names_engine_and_model() -> None:
    """Version, engine and model, behind the key."""
    async with serving(api_key=KEY) as service, service.client() as client:
        assert (await client.get("/version")).status_code == 401
        shown = (await client.get("/version", headers=BEARER)).json()
        assert shown["engine"] == "scripted"
        assert shown["model"] == "tiny:latest"
        assert shown["version"]
        tags = (await client.get("/api/tags", headers=BEARER)).json()
        assert shown["digest"] == tags["models"][0]["digest"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/api/nope", 404),
        ("POST", "/", 405),
        ("GET", "/api/chat", 405),
        ("PUT", "/api/tags", 405),
        ("GET", "/v1/nope", 404),
        ("GET", "/v1", 404),
        ("GET", "/openai/v1/nope", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PATCH", "/openai/v1/embeddings", 405),
    ],
)
async def test_unknown_paths_and_methods_speak_the_dialect(method: str, path: str, status: int) -> None:
    """404 and 405 are OpenAI's object under /v1 and what Ollama's router says elsewhere, with Allow."""
    async with serving() as service, service.client() as client:
        response = await client.request(method, path)
        assert response.status_code == status
        assert response.headers["x-request-id"]
        if status == 405:
            assert response.headers["allow"]
        if path.startswith(("/v1", "/openai")):
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        else:
            assert response.text == ("404 page not found" if status == 404 else "405 method not allowed")
            assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("state", "status"), [("unloaded", 200), ("failed", 503), ("starting", 503)])
async def test_health_is_whether_a_request_would_be_answered(state: State, status: int) -> None:
    """An unloaded model loads on demand, so it is healthy; each state is called by its name."""
    engine = ScriptedEngine()
    async with serving(engine) as service, service.client() as client:
        await until(lambda: engine.state == "ready")
        engine.become(state)
        assert (await health(client)) == (status, {"status": state, "model": "tiny:latest"})
        assert (
            json.loads((await client.get("/", headers={"Accept": "application/json"})).text)["status"] == state
        )


async def test_health_tells_which_revision_runs() -> None:
    """What an update has set shows to anyone; without it nothing does."""
    async with serving(ScriptedEngine(), revision="3f2a91c04b7e") as service, service.client() as client:
        await until(lambda: service.runtime.health.ready)
        assert (await health(client))[1]["revision"] == "3f2a91c04b7e"
    async with serving(ScriptedEngine()) as service, service.client() as client:
        assert "revision" not in (await health(client))[1]
