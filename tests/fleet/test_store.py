"""Several real models of one store behind one service: llama.cpp, the bundled model and its kin."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.models import manifest as kinds
from akashllm.server.models.manifest import Manifest
from akashllm.server.models.store import ModelStore
from akashllm.server.settings import Settings
from tests.fleet.lora import write_lora
from tests.ollama.conftest import serving

pytestmark = pytest.mark.engine

ONE = 6_000_000
"""Bytes that one tiny model takes with a short context, rounded up."""


def put(store: ModelStore, name: str, *, weights: Path = TINY, **layers: bytes) -> str:
    """Make a model of the store; `layers` by kind. Its digest."""
    config = store.put(b'{"model_format":"gguf","model_family":"llama"}', kinds.CONFIG)
    files = [store.put(weights.read_bytes(), "application/vnd.ollama.image.model")]
    files += [store.put(data, f"application/vnd.ollama.image.{kind}") for kind, data in layers.items()]
    store.link(ModelName.parse(name), Manifest(config=config, layers=files).encode())
    return store.get(ModelName.parse(name)).digest


QUANTISE = """
import ctypes, sys
import llama_cpp.llama_cpp as api
params = api.llama_model_quantize_default_params()
params.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
params.allow_requantize = True
params.nthread = 1
sys.exit(api.llama_model_quantize(*(path.encode() for path in sys.argv[1:]), ctypes.byref(params)))
"""


def quantised(path: Path) -> Path:
    """The bundled model in another quantisation, by llama.cpp's own quantiser in a process of its own."""
    subprocess.run([sys.executable, "-c", QUANTISE, str(TINY), str(path)], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store: a plain model, a persona, one with another context, one with an adapter, one that is broken."""
    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder)
    put(store, "plain")
    put(store, "quarter", weights=quantised(folder / "quarter.gguf"))
    put(
        store,
        "batman",
        system=b"You are Batman.",
        params=b'{"temperature":0,"stop":["\\n\\n"],"num_predict":40}',
    )
    put(
        store,
        "remembers",
        messages=b'[{"role":"user","content":"My name is Alice."},'
        b'{"role":"assistant","content":"Nice to meet you, Alice."}]',
        params=b'{"temperature":0}',
    )
    put(store, "short", params=b'{"num_ctx":256,"num_predict":3,"temperature":0}')
    lora = write_lora(folder / "lora.gguf", strength=0.5)
    put(store, "adapted", adapter=lora.read_bytes(), params=b'{"temperature":0}')
    broken = folder / "broken.gguf"
    broken.write_bytes(TINY.read_bytes()[:-200_000])
    put(store, "broken", weights=broken)
    return folder


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[httpx.Client]:
    """A client of a service with that store, memory for three models, and the bundled model deployed."""
    settings = Settings(models=str(root), log_level="error", memory=3 * ONE, context=512, concurrency=2)
    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=2, context=512)
    with serving(engine, settings) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def ask(service: httpx.Client, model: str, text: str, **body: Any) -> dict[str, Any]:
    """A chat in Ollama's dialect, not streamed."""
    sent = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False, **body}
    response = service.post("/api/chat", json=sent)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def content(answer: dict[str, Any]) -> str:
    """What the model says."""
    said: str = answer["message"]["content"]
    return said


def running(service: httpx.Client) -> dict[str, Any]:
    """`/api/ps` by name."""
    return {one["name"]: one for one in service.get("/api/ps").json()["models"]}


def test_models_are_loaded_by_name_and_make_room(service: httpx.Client, root: Path) -> None:
    """Each name answers; `ps` lists what is in memory with true digests, and never more than the budget."""
    store = ModelStore(root)
    loaded: dict[str, Any] = {}
    for name in ("tiny", "plain", "short", "adapted"):
        assert ask(service, name, "What is the capital of Japan?")["done"]
        loaded = running(service)
        assert f"{name}:latest" in loaded
        assert sum(one["size"] for one in loaded.values()) <= 3 * ONE
        if name != "tiny":
            assert loaded[f"{name}:latest"]["digest"] == store.get(ModelName.parse(name)).digest
    assert "tiny:latest" not in loaded, "the model used longest ago made room, the deployed one too"
    assert service.get("/health").status_code == 200
    assert "Tokyo" in content(ask(service, "tiny", "What is the capital of Japan?", options={"temperature": 0}))


def test_a_modelfile_speaks_where_the_request_does_not(service: httpx.Client) -> None:
    """SYSTEM, MESSAGE and PARAMETER hold in both dialects, and a request overrides each."""
    assert "Batman" in content(ask(service, "batman", "Who are you?"))
    own = [{"role": "system", "content": "You are a robot."}, {"role": "user", "content": "Who are you?"}]
    assert "Batman" not in content(ask(service, "batman", "", messages=own))
    generated = service.post(
        "/api/generate", json={"model": "batman", "prompt": "Who are you?", "stream": False}
    ).json()
    assert "Batman" in generated["response"]
    assert "Alice" in content(ask(service, "remembers", "What is my name?"))
    assert ask(service, "short", "Tell me a story.")["eval_count"] == 3
    assert ask(service, "short", "Tell me a story.", options={"num_predict": 5})["eval_count"] == 5
    openai = {"model": "batman", "messages": [{"role": "user", "content": "Who are you?"}]}
    first, second = (service.post("/v1/chat/completions", json=openai).json() for _ in range(2))
    assert "Batman" in first["choices"][0]["message"]["content"]
    assert first["choices"] == second["choices"], "temperature 0 is the model's own"
    story: dict[str, Any] = {"model": "short", "messages": [{"role": "user", "content": "Tell me a story."}]}
    assert service.post("/v1/chat/completions", json=story).json()["usage"]["completion_tokens"] == 3
    story["max_tokens"] = 6
    assert service.post("/v1/chat/completions", json=story).json()["usage"]["completion_tokens"] == 6


def test_one_set_of_weights_is_loaded_once(service: httpx.Client, root: Path) -> None:
    """Models that differ only in what is said to them share one engine, also when another is made of them."""
    alike = {"plain:latest", "batman:latest", "remembers:latest"}
    for _ in range(2):
        for name in alike:
            ask(service, name, "Hello")
            assert len(running(service).keys() & alike) == 1
        for file in (root / "blobs").iterdir():
            file.touch()


def test_quantisations_side_by_side(service: httpx.Client) -> None:
    """Two quantisations of one model are two models, each with its own details and size."""
    for name in ("plain", "quarter"):
        assert "Tokyo" in content(
            ask(service, name, "What is the capital of Japan?", options={"temperature": 0})
        )
    loaded = running(service)
    levels = {name: loaded[f"{name}:latest"]["details"]["quantization_level"] for name in ("plain", "quarter")}
    assert levels == {"plain": "Q8_0", "quarter": "Q4_0"}
    assert loaded["quarter:latest"]["size"] < loaded["plain:latest"]["size"]


def test_num_ctx_of_a_model_is_how_it_is_loaded(service: httpx.Client) -> None:
    """PARAMETER num_ctx sets the context of the engine, which `ps` shows."""
    ask(service, "short", "Hello")
    assert running(service)["short:latest"]["context_length"] == 256


def test_an_adapter_belongs_to_its_model(service: httpx.Client) -> None:
    """The model with the adapter answers in another way than the one without."""
    question = "Why is the sky blue?"
    plain = content(ask(service, "plain", question, options={"temperature": 0}))
    assert content(ask(service, "adapted", question)) != plain


def test_a_broken_model_hurts_nobody(service: httpx.Client) -> None:
    """It is a 503 with the reason; the others answer, and the service stays healthy."""
    response = service.post(
        "/api/chat", json={"model": "broken", "messages": [{"role": "user", "content": "x"}]}
    )
    assert response.status_code == 503
    assert "cannot" in response.json()["error"]
    assert "Tokyo" in content(ask(service, "tiny", "What is the capital of Japan?", options={"temperature": 0}))
    assert "broken:latest" not in running(service)
    assert service.get("/health").status_code == 200


def test_keep_alive_is_each_models_own(service: httpx.Client) -> None:
    """0 unloads the model that is named and no other; a duration shows in `ps`, the longest first."""
    ask(service, "tiny", "Hello", keep_alive=-1)
    ask(service, "short", "Hello", keep_alive="5m")
    listed = service.get("/api/ps").json()["models"]
    assert [one["expires_at"] for one in listed] == sorted((o["expires_at"] for o in listed), reverse=True)
    assert listed[0]["expires_at"].startswith("23")
    gone = service.post("/api/generate", json={"model": "short", "keep_alive": 0}).json()
    assert gone["done_reason"] == "unload"
    assert "short:latest" not in running(service)
    assert "tiny:latest" in running(service)


def test_a_model_that_is_made_anew_or_deleted(service: httpx.Client, root: Path) -> None:
    """The next request to a name gets what the name means now."""
    store = ModelStore(root)
    first = put(store, "changing", params=b'{"temperature":0,"num_ctx":300}')
    ask(service, "changing", "Hello")
    assert running(service)["changing:latest"]["digest"] == first
    second = put(store, "changing", system=b"You are Batman.", params=b'{"temperature":0,"num_ctx":400}')
    assert "Batman" in content(ask(service, "changing", "Who are you?"))
    found = running(service)["changing:latest"]
    assert (found["digest"], found["context_length"]) == (second, 400)
    store.delete(ModelName.parse("changing"))
    assert service.post("/api/chat", json={"model": "changing", "messages": []}).status_code == 404


def test_state_and_figures_of_all_models(service: httpx.Client) -> None:
    """`/` and `/metrics` know every model: what is in memory, what it takes, what there is."""
    ask(service, "plain", "Hello")
    state = service.get("/", headers={"Accept": "application/json"}).json()
    assert {"tiny:latest", "plain:latest", "batman:latest"} <= set(state["models"])
    assert any(one["model"] in {"plain:latest", "batman:latest"} for one in state["instances"])
    assert 0 < state["memory"]["taken"] <= state["memory"]["budget"] == 3 * ONE
    assert state["downloads"] == []
    figures = service.get("/metrics").text
    budget = next(line for line in figures.splitlines() if line.startswith("akashllm_memory_budget_bytes "))
    assert float(budget.split()[1]) == 3 * ONE
    assert 'akashllm_model_memory_bytes{model="' in figures
    listed = {one["id"] for one in service.get("/v1/models").json()["data"]}
    assert {"tiny", "plain", "batman"} <= listed


def test_streams_of_two_models_at_once(service: httpx.Client) -> None:
    """Two models answer at the same time, each its own question."""
    with (
        service.stream("POST", "/api/chat", json=_counting("tiny")) as one,
        service.stream("POST", "/api/chat", json=_counting("plain")) as two,
    ):
        lines = [[json.loads(line) for line in stream.iter_lines()] for stream in (one, two)]
    for parts in lines:
        assert "5" in "".join(part["message"]["content"] for part in parts)
        assert parts[-1]["done"]


def _counting(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Count to 12."}],
        "options": {"temperature": 0},
    }
