"""The engine whose weights come first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from akashllm.digests import Sha256
from akashllm.errors import (
    BadModelFile,
    DigestMismatch,
    DownloadFailed,
    EngineFailed,
    RegistryFailed,
    UnknownModel,
)
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.domain import ModelInfo
from akashllm.server.engine import Engine, State
from akashllm.server.engines.fetched import FetchedEngine
from akashllm.server.health import Health
from akashllm.server.metrics import Metrics
from akashllm.server.models.store import ModelStore
from akashllm.server.models.weights import Told
from akashllm.server.resident import Resident
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from akashllm.testing.files import running_files
from tests.ollama.conftest import serving
from tests.service.support import until
from tests.store.build import model
from tests.store.conftest import Shelf

GIB = 1 << 30


class Coming:
    """Weights that come when the test says so."""

    shown = "hf.co/o/m"

    def __init__(self, path: Path, *, there: bool = False) -> None:
        self.path = path
        self.there = there
        self.fetches = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.words: list[tuple[str, int, int | None]] = [("a/m.gguf", 3 * GIB, 4 * GIB)]

    def here(self) -> Path | None:
        """Only once it has come."""
        return self.path if self.there else None

    async def fetch(self, told: Told) -> Path:
        """Tell, wait, come or fail."""
        self.fetches += 1
        for word in self.words:
            told(*word)
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.there = True
        return self.path


def engine(
    weights: Coming, inner: ScriptedEngine | None = None
) -> tuple[FetchedEngine, list[Path], list[tuple[State, str, float | None]]]:
    """The engine, what it built from which path, and what it said."""
    built: list[Path] = []
    said: list[tuple[State, str, float | None]] = []

    def build(path: Path) -> Engine:
        built.append(path)
        return inner or ScriptedEngine()

    made = FetchedEngine(weights, build, name="llamacpp", info=ModelInfo(name="m"))
    made.watch(lambda *word: said.append(word))
    return made, built, said


def state(of: FetchedEngine) -> str:
    """Its state, which no type checker narrows."""
    return of.state


async def test_weights_come_before_the_engine(tmp_path: Path) -> None:
    """While they come the state is loading, with file, size and percent; then the engine is as it is."""
    weights = Coming(tmp_path / "m.gguf")
    fetched, built, said = engine(weights)
    health = Health(fetched)
    assert state(fetched) == "unloaded"
    assert fetched.info.name == "m"
    health.asked()
    task = asyncio.create_task(fetched.load())
    await weights.began.wait()

    assert state(fetched) == "loading"
    assert health.public("m") == {
        "status": "loading",
        "model": "m",
        "percent": 75.0,
        "reason": "downloading m.gguf: 3.0 of 4.0 GiB",
    }
    assert not health.ready
    assert built == []
    weights.go.set()
    await task

    assert built == [tmp_path / "m.gguf"]
    assert fetched.file == tmp_path / "m.gguf"
    assert state(fetched) == "ready"
    assert fetched.info.name == "tiny"
    assert [word for word, _, _ in said] == ["loading", "loading", "loading", "ready"]
    await fetched.load()
    assert weights.fetches == 1


async def test_weights_that_are_here_are_not_fetched(tmp_path: Path) -> None:
    """A start with everything on the volume builds the engine at once."""
    weights = Coming(tmp_path, there=True)
    fetched, built, _ = engine(weights)

    assert built == [tmp_path]
    assert state(fetched) == "starting"
    await fetched.load()

    assert weights.fetches == 0


@pytest.mark.parametrize(
    "error",
    [
        DownloadFailed("o/m is gated: its licence has to be accepted", hint="accept it"),
        DownloadFailed("hf.co/o/m needs 4.7 GiB and the disk has 1.0 GiB free", hint="use a larger volume"),
        DigestMismatch("m.gguf is not the file that was promised", hint="fetch it again"),
    ],
)
async def test_what_cannot_be_fetched_is_a_reason_and_tried_again(tmp_path: Path, error: Exception) -> None:
    """A failure is a state with sentence and hint; the next load tries again and may succeed."""
    weights = Coming(tmp_path / "m.gguf")
    weights.error = error
    weights.go.set()
    fetched, built, said = engine(weights)
    health = Health(fetched)

    with pytest.raises(EngineFailed, match=str(error)):
        await fetched.load()

    assert state(fetched) == "failed"
    assert health.public("m")["reason"].startswith(f"{error}; ")
    assert said[-1][0] == "failed"
    assert built == []
    with pytest.raises(EngineFailed, match="not here yet"):
        await fetched.embed(None)  # type: ignore[arg-type]  # never looked at
    weights.error = None
    await fetched.load()
    assert state(fetched) == "ready"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DownloadFailed("o/m is gated: its licence has to be accepted", status=403), "order"),
        (DownloadFailed("the hub has no o/m", status=404), "order"),
        (DownloadFailed("o/m needs 4.7 GiB and the disk has 1.0 GiB free", code="disk_full"), "order"),
        (UnknownModel("o/m has no GGUF files"), "order"),
        (RegistryFailed("pull model manifest: file does not exist", code="no_such_model"), "order"),
        (DownloadFailed("the hub cannot be reached"), None),
        (DownloadFailed("the hub answers 500", status=500), None),
        (DigestMismatch("m.gguf is not the file that was promised"), None),
    ],
)
async def test_a_failure_of_what_was_ordered_says_so(
    tmp_path: Path, error: Exception, fault: str | None
) -> None:
    """A name, a licence and a disk fail alike on every machine, and health says it; a network does not."""
    weights = Coming(tmp_path / "m.gguf")
    weights.error = error
    weights.go.set()
    fetched, _, _ = engine(weights)
    health = Health(fetched)

    with pytest.raises(EngineFailed):
        await fetched.load()
    assert health.public("m").get("fault") == fault

    weights.error = None
    await fetched.load()
    assert "fault" not in health.public("m")


async def test_weights_that_are_no_model_of_the_engine_are_what_was_ordered(tmp_path: Path) -> None:
    """Weights that came whole and that the engine cannot even be made of are no `loading` without end."""
    weights = Coming(tmp_path / "m.gguf")
    weights.go.set()

    def build(path: Path) -> Engine:
        raise BadModelFile(f"{path.name} is no GGUF file", hint="name another one")

    fetched = FetchedEngine(weights, build, name="llamacpp", info=ModelInfo(name="m"))
    health = Health(fetched)
    with pytest.raises(EngineFailed, match="is no GGUF file"):
        await fetched.load()

    shown = health.public("m")
    assert (shown["status"], shown["fault"]) == ("failed", "order")
    assert shown["reason"] == "m.gguf is no GGUF file; name another one"


async def test_an_unforeseen_fault_is_a_state_too(tmp_path: Path) -> None:
    """A defect in fetching does not leave `loading` behind."""
    weights = Coming(tmp_path)
    weights.error = ZeroDivisionError()
    weights.go.set()
    fetched, _, _ = engine(weights)

    with pytest.raises(ZeroDivisionError):
        await fetched.load()

    assert state(fetched) == "failed"


async def test_a_cancelled_load_stops_fetching(tmp_path: Path) -> None:
    """Cancelling the load cancels the download, and the state is what it was before."""
    weights = Coming(tmp_path)
    fetched, _, _ = engine(weights)
    task = asyncio.create_task(fetched.load())
    await weights.began.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert weights.cancelled == 1
    assert state(fetched) == "unloaded"


async def test_close_while_fetching(tmp_path: Path) -> None:
    """Closing ends the download and whoever waits for it; nothing is loaded afterwards."""
    weights = Coming(tmp_path)
    fetched, built, _ = engine(weights)
    task = asyncio.create_task(fetched.load())
    await weights.began.wait()

    await fetched.close()

    with pytest.raises(EngineFailed, match="stopping"):
        await task
    with pytest.raises(EngineFailed, match="stopping"):
        await fetched.load()
    assert weights.cancelled == 1
    assert built == []


async def test_unload_and_close_reach_the_engine(tmp_path: Path) -> None:
    """Once it runs, unloading and closing are the engine's own; files that are gone are fetched again."""
    inner = ScriptedEngine()
    weights = Coming(tmp_path, there=True)
    weights.go.set()
    fetched, built, _ = engine(weights, inner)
    await fetched.load()

    await fetched.unload()
    assert state(fetched) == "unloaded"
    weights.there = False
    await fetched.load()

    assert weights.fetches == 1
    assert built == [tmp_path]
    assert state(fetched) == "ready"
    await fetched.close()
    assert inner.closed


async def test_a_failure_of_the_engine_is_the_engines(tmp_path: Path) -> None:
    """Weights that are here but do not load fail as they would anywhere."""
    inner = ScriptedEngine(manual=True)
    weights = Coming(tmp_path, there=True)
    fetched, _, _ = engine(weights, inner)
    loading = asyncio.Event()
    fetched.watch(lambda *_: loading.set())
    task = asyncio.create_task(fetched.load())
    await loading.wait()
    inner.fail_loading("no memory")

    with pytest.raises(EngineFailed, match="no memory"):
        await task

    assert state(fetched) == "failed"


@pytest.mark.parametrize(
    ("words", "sentence", "percent"),
    [
        ([("m", 0, None)], "downloading m: 0.0 GiB", None),
        ([("m", 5 << 20, 10 << 20)], "downloading m: 5.0 of 10.0 MiB", 50.0),
        ([("m", 4 * GIB, 4 * GIB)], "verifying m: 4.0 of 4.0 GiB", 100.0),
    ],
)
async def test_sentences(
    tmp_path: Path, words: list[tuple[str, int, int | None]], sentence: str, percent: float | None
) -> None:
    """Sizes that are unknown, small or complete read right."""
    weights = Coming(tmp_path)
    weights.words = words
    fetched, _, said = engine(weights)
    task = asyncio.create_task(fetched.load())
    await weights.began.wait()

    assert said[-1] == ("loading", sentence, percent)
    await fetched.close()
    with pytest.raises(EngineFailed):
        await task


async def test_health_is_not_green_between_weights_and_model(tmp_path: Path) -> None:
    """From the first look until a real token came out, nothing says that a request would be answered."""
    weights = Coming(tmp_path)
    inner = ScriptedEngine(manual=True)
    inner.become("unloaded", "")
    fetched, _, _ = engine(weights, inner)
    resident = Resident("m", fetched, Settings(), metrics=Metrics())
    seen: list[tuple[str, bool]] = []
    loading = asyncio.Event()

    def look(*_: object) -> None:
        seen.append((resident.health.state, resident.health.ready))
        if inner.state == "loading":
            loading.set()

    fetched.watch(look)
    look()
    resident.start()
    await weights.began.wait()
    weights.go.set()
    await loading.wait()
    inner.finish_loading()
    await resident.ready()

    assert [ready for _, ready in seen] == [False] * (len(seen) - 1) + [True]
    assert {state for state, _ in seen} == {"starting", "loading", "ready"}
    await resident.close()


async def test_unloading_does_not_wait_for_a_download(tmp_path: Path) -> None:
    """It is over at once although the weights may take hours; they go on coming, and wait for a request."""
    weights = Coming(tmp_path)
    inner = ScriptedEngine()
    fetched, _, _ = engine(weights, inner)
    resident = Resident("m", fetched, Settings(), metrics=Metrics())
    resident.start()
    await weights.began.wait()

    async with asyncio.timeout(5):
        await resident.unload()
    assert fetched.fetching
    weights.go.set()
    await until(lambda: resident.health.state == "unloaded")

    assert (inner.loads, resident.health.state) == (0, "unloaded")
    await resident.ready()
    assert inner.loads == 1
    await resident.close()


def deployed(tmp_path: Path, weights: Path, **said: Any) -> AbstractContextManager[httpx.Client]:
    """A client of a service with a store, whose deployed model was fetched to `weights`."""
    coming = Coming(weights, there=True)
    coming.go.set()

    @contextmanager
    def opened() -> Iterator[httpx.Client]:
        made = Settings(models=str(tmp_path / "models"), manage_unauthenticated=True, log_level="error", **said)
        with serving(engine(coming)[0], made) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client

    return opened()


def test_a_model_that_was_fetched_can_be_the_base_of_others(tmp_path: Path) -> None:
    """Its file is where the weights came to, and not where its name would be as a path."""
    with deployed(tmp_path, TINY, model="hf.co/o/m", model_name="m") as client:
        made = client.post("/api/copy", json={"source": "m", "destination": "mine"})
        assert (made.status_code, made.text) == (200, "")
        shown = client.post("/api/show", json={"model": "mine"}).json()
    assert shown["details"]["family"] == "llama"


def test_a_deployed_model_of_the_store_stays_in_it(tmp_path: Path) -> None:
    """Its name cannot be deleted; when it is pulled anew, what runs keeps its file until the next start."""
    root = tmp_path / "models"
    running = root / "blobs" / Sha256.parse(model(root, "m").layers[0].digest).filename
    with running_files() as server:
        Shelf(server).offer(model=b"GGUF, but newer")
        mirrors: Any = (("registry.ollama.ai", server.url),)
        with deployed(tmp_path, running, model="m", registry_mirrors=mirrors) as client:
            refused = client.request("DELETE", "/api/delete", json={"model": "m"})
            assert (refused.status_code, "it stays" in refused.json()["error"]) == (403, True)
            pulled = client.post("/api/pull", json={"model": "m", "stream": False})
            assert pulled.json() == {"status": "success"}
            assert running.is_file()
    assert ModelStore(root).get(ModelName("m")).weights != running
