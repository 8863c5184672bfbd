"""An upstream that is not there, loads, goes away and comes back; which one it is; and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from akashllm.errors import EngineDied, EngineFailed
from akashllm.server.engine import Engine, State
from akashllm.server.engines.upstream import presence
from akashllm.server.engines.upstream.engine import UpstreamEngine
from akashllm.server.run import build_engine
from akashllm.server.settings import BadSettings, Settings
from tests.upstream.ask import over, run, say
from tests.upstream.scripted import HELLO, Scripted, chunk, listening, ollama_like, openai_like, sse


class Watched:
    """Hears of every state, and waits for one."""

    def __init__(self, engine: UpstreamEngine) -> None:
        self.seen: list[tuple[State, str]] = []
        self._engine = engine
        self._changed = asyncio.Event()
        engine.watch(self._hear)

    def _hear(self, state: State, reason: str, _percent: float | None) -> None:
        self.seen.append((state, reason))
        self._changed.set()

    async def until(self, state: State) -> None:
        """Wait until the engine is in that state."""
        async with asyncio.timeout(10):
            while self._engine.state != state:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses between attempts."""
    monkeypatch.setattr(presence, "BACK_OFF", (0.01,))


async def test_is_an_engine() -> None:
    """It has everything the protocol asks for, before anything is reached."""
    engine = UpstreamEngine("http://127.0.0.1:9", name="m:latest")
    assert isinstance(engine, Engine)
    assert (engine.name, engine.state, engine.info.name) == ("upstream", "unloaded", "m:latest")
    await engine.close()


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """An upstream that cannot be reached is a failure with a reason. Its address is for the log alone."""
    upstream = openai_like("somebody")
    async with listening(upstream):
        pass
    engine = UpstreamEngine(upstream.url, name="m", patience=0.0)
    with pytest.raises(EngineFailed, match="the upstream cannot be reached") as caught:
        await engine.load()
    assert str(upstream.port) not in caught.value.message + engine.reason
    assert str(upstream.port) in caplog.text
    assert caught.value.retry_after
    assert engine.state == "failed"
    await engine.close()


async def test_one_that_comes_later_is_found() -> None:
    """A load waits a while for an upstream that starts beside it; one that failed is found again by itself."""
    upstream = openai_like("somebody")
    async with listening(upstream):
        pass
    engine = UpstreamEngine(upstream.url, name="m", patience=0.0)
    watched = Watched(engine)
    with pytest.raises(EngineFailed):
        await engine.load()
    async with listening(upstream):
        await watched.until("ready")
        assert (await run(engine, say())).text == "Hello"
        await engine.close()
    assert engine.state == "unloaded"


async def test_one_that_loads_is_waited_for() -> None:
    """While the upstream says that it loads its model, the state is loading; then it is ready."""
    answers = iter([(503, b'{"error":{"message":"Loading model","code":503}}')] * 3)
    upstream = openai_like("llamacpp")
    models = upstream.answers["/v1/models"]
    upstream.answers["/v1/models"] = lambda _: next(answers, models)
    async with listening(upstream):
        engine = UpstreamEngine(upstream.url, name="m", patience=0.0)
        watched = Watched(engine)
        await engine.load()
        await engine.close()
    assert ("loading", "Loading model") in watched.seen


async def test_one_that_goes_away_and_comes_back() -> None:
    """A request in the middle dies, the next fails with the reason, and after the return all is well."""
    hold = asyncio.Event()
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        watched = Watched(engine)
        upstream.answers["/v1/chat/completions"] = [*sse(chunk("a"), done=False), hold]
        upstream.arrived.clear()
        task = asyncio.create_task(run(engine, say()))
        await upstream.arrived.wait()
        await upstream.stop()
        with pytest.raises(EngineDied, match="connection to the upstream"):
            await task
        await watched.until("failed")
        with pytest.raises(EngineFailed, match="cannot be reached"):
            await run(engine, say())
        upstream.answers["/v1/chat/completions"] = HELLO
        await upstream.start()
        await watched.until("ready")
        assert (await run(engine, say())).text == "Hello"
        assert engine.stats().restarts >= 1


async def test_a_quiet_death_is_noticed() -> None:
    """An upstream that goes while nobody asks anything is missed within the interval."""
    upstream = openai_like("somebody")
    async with over(upstream, interval=0.02) as engine:
        watched = Watched(engine)
        await upstream.stop()
        await watched.until("failed")
        await upstream.start()
        await watched.until("ready")


async def test_a_busy_upstream_is_not_dead() -> None:
    """One that answers a look with 503 stays ready."""
    upstream = openai_like("somebody")
    async with over(upstream, interval=0.01) as engine:
        upstream.answers["/v1/models"] = (503, b"{}")
        upstream.asked.clear()
        async with asyncio.timeout(5):
            while len(upstream.asked) < 4:
                upstream.arrived.clear()
                await upstream.arrived.wait()
        assert engine.state == "ready"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/v1/models": (401, b"{}")}, "does not accept this service's key"),
        ({"/v1/models": (302, b"")}, "redirect"),
        ({}, "no such model or path"),
        ({"/v1/models": {"data": []}}, "has no model"),
        ({"/v1/models": {"data": [{"id": "other"}]}}, "has no model m; it has other"),
        ({"/v1/models": (200, b"ok")}, "not JSON"),
        ({"/v1/models": (200, b"[]")}, "no model server"),
        (
            {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": (400, b'{"error":"no chat"}')},
            "no chat",
        ),
        ({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": sse()}, "before its answer"),
    ],
    ids=range(9),
)
async def test_what_is_no_upstream_fails_with_the_reason(answers: dict[str, Any], words: str) -> None:
    """Each way in which an address is not what was promised has its own words."""
    async with listening(Scripted(answers)) as upstream:
        engine = UpstreamEngine(upstream.url, name="m", model="m", patience=0.0)
        with pytest.raises(EngineFailed, match=words):
            await engine.load()
        assert engine.state == "failed"
        assert words in engine.reason
        await engine.close()


@pytest.mark.parametrize(
    ("upstream", "flavour"),
    [
        (openai_like("llamacpp"), "llamacpp"),
        (openai_like("vllm"), "vllm"),
        (openai_like("somebody"), "openai"),
        (
            openai_like("library", version={"version": "1", "engine": "llamacpp"}, **{"api/show": {}}),
            "akashllm",
        ),
        (ollama_like(), "ollama"),
        (
            Scripted(ollama_like().answers | {"/v1/models": {"data": [{"id": "m:1b", "owned_by": "library"}]}}),
            "ollama",
        ),
    ],
    ids=["llama-server", "vllm", "other", "ours", "ollama", "ollama with /v1"],
)
async def test_the_upstream_is_recognised(upstream: Scripted, flavour: str) -> None:
    """What it is shows in its answers, without being told."""
    async with over(upstream) as engine:
        assert engine.flavour == flavour
        assert (await run(engine, say())).text == "Hello"


async def test_the_model_is_described() -> None:
    """Context, capabilities, sizes and digest are those the upstream tells."""
    async with over(ollama_like()) as engine:
        info = engine.info
        assert (info.context, info.train_context, info.family, info.quantization) == (
            100,
            200,
            "llama",
            "Q4_K_M",
        )
        assert (info.size, info.memory, info.vram, info.parameters) == (5, 9, 8, 5)
        assert set(info.capabilities) == {"completion", "tools", "thinking", "insert"}
        assert engine.digest == "a" * 64
    async with over(openai_like("llamacpp", infill={"content": "x", "stop": True})) as engine:
        assert (engine.info.context, engine.info.train_context, engine.info.vocab_size) == (100, 200, 50)
        assert set(engine.info.capabilities) == {"completion", "tools", "insert"}
    async with over(openai_like("vllm"), context=60) as engine:
        assert (engine.info.context, engine.info.train_context) == (60, 100)


async def test_a_model_that_only_embeds() -> None:
    """A server that answers no chat but embeds is ready, and can do that alone."""
    upstream = openai_like("somebody", chat=(400, b'{"error":"no chat"}'))
    upstream.answers["/v1/embeddings"] = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}
    async with over(upstream) as engine:
        assert (engine.info.capabilities, engine.info.embedding_length) == (("embedding",), 2)


async def test_unloading() -> None:
    """Ollama is told to give the memory back; the next request loads again. Others cannot be told."""
    upstream = ollama_like(**{"api/generate": {"done": True, "done_reason": "unload"}})
    async with over(upstream) as engine:
        await engine.unload()
        assert engine.state == "unloaded"
        assert upstream.asked[-1].body == {"model": "m:1b", "keep_alive": 0}
        assert (await run(engine, say())).text == "Hello"
    upstream = openai_like("somebody")
    async with over(upstream) as engine:
        await engine.unload()
        assert (engine.state, upstream.asked) == ("unloaded", [])


async def test_nothing_is_left_open() -> None:
    """A closed engine has no connection and no task."""
    before = asyncio.all_tasks()
    async with over(openai_like("somebody")) as engine:
        await run(engine, say(n=3))
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


def test_the_settings_build_it() -> None:
    """The environment names engine, address, key and dialect; each fault is told."""
    environ = {
        "AKASHLLM_ENGINE": "upstream",
        "AKASHLLM_UPSTREAM_URL": "http://127.0.0.1:8000/v1/",
        "AKASHLLM_UPSTREAM_API_KEY": "sk-1",
        "AKASHLLM_MODEL": "llama3.2:1b",
    }
    settings = Settings.from_env(environ)
    assert settings.upstream_url == "http://127.0.0.1:8000"
    assert "sk-1" not in repr(settings)
    engine = build_engine(settings)
    assert (engine.name, engine.info.name) == ("upstream", "llama3.2:1b")
    for wrong in ("ftp://x", "x", "http://", "http://a:b@c/", "http://h/?q", "http://h:99999"):
        with pytest.raises(BadSettings, match="UPSTREAM_URL"):
            Settings.from_env(environ | {"AKASHLLM_UPSTREAM_URL": wrong})
    with pytest.raises(BadSettings, match="UPSTREAM_URL: is required"):
        Settings.from_env({"AKASHLLM_ENGINE": "upstream"})
    with pytest.raises(BadSettings, match="UPSTREAM_API_KEY") as caught, contextlib.suppress(KeyError):
        Settings.from_env(environ | {"AKASHLLM_UPSTREAM_API_KEY": "a b"})
    assert "a b" not in str(caught.value)
    assert build_engine(Settings(engine="ollama", model="llama3.2:1b")).name == "ollama"
