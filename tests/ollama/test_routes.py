"""Ollama's routes over HTTP: statuses, bodies, framing, and what a client's wishes do to the model."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from akashllm.models import TINY
from akashllm.server.domain import ChatPrompt
from akashllm.server.models.registry import CONTRACT
from akashllm.server.settings import Settings
from akashllm.testing.engine import Reply, ScriptedEngine
from tests.ollama.conftest import lines, script, serving

JSON = "application/json; charset=utf-8"
USER = [{"role": "user", "content": "x"}]

REFUSED: list[tuple[str, bytes | dict[str, Any], int, str]] = [
    ("generate", b"", 400, "missing request body"),
    ("chat", b"", 400, "missing request body"),
    ("embed", b"", 400, "missing request body"),
    ("embeddings", b"", 400, "missing request body"),
    ("show", b"", 400, "missing request body"),
    ("generate", b'{"model":', 400, "unexpected EOF"),
    ("generate", b"[]", 400, "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
    ("chat", b'"x"', 400, "json: cannot unmarshal string into Go value of type api.ChatRequest"),
    ("generate", b"null", 404, "model '' not found"),
    ("generate", {"prompt": "x"}, 404, "model '' not found"),
    ("chat", {"messages": USER}, 400, "model is required"),
    ("embed", {"input": "x"}, 404, 'model "" not found, try pulling it first'),
    ("embeddings", {"prompt": "x"}, 400, "model is required"),
    ("show", {}, 400, "model is required"),
    ("generate", {"model": "a b", "prompt": "x"}, 400, "invalid model name"),
    ("chat", {"model": "../x", "messages": USER}, 400, "invalid model name"),
    ("embed", {"model": "a b", "input": "x"}, 400, "invalid model name"),
    ("show", {"model": "http://evil/x"}, 400, "invalid model name"),
    ("generate", {"model": "Mistral", "prompt": "x"}, 404, "model 'Mistral' not found"),
    ("chat", {"model": "mistral", "messages": USER}, 404, "model 'mistral' not found"),
    ("chat", {"model": "mistral", "messages": USER, "stream": False}, 404, "model 'mistral' not found"),
    ("embed", {"model": "mistral", "input": "x"}, 404, 'model "mistral" not found, try pulling it first'),
    ("embeddings", {"model": "mistral", "prompt": "x"}, 404, 'model "mistral" not found, try pulling it first'),
    ("show", {"name": "mistral"}, 404, "model 'mistral:latest' not found"),
    (
        "chat",
        {"model": "x:local:cloud", "messages": USER},
        400,
        'use either :local or :cloud, not both: "x:local:cloud"',
    ),
    (
        "generate",
        {"model": "tiny", "prompt": "x", "options": {"temperature": "x"}},
        400,
        'option "temperature" must be of type float32',
    ),
    (
        "generate",
        {"model": "tiny", "prompt": "x", "images": ["iVBORw0KGgo="]},
        400,
        'this model ("tiny") has no vision: leave out the images, or serve a model that sees',
    ),
]


@pytest.mark.parametrize(("route", "body", "status", "text"), REFUSED)
def test_refusals_are_one_string_with_a_status(
    http: httpx.Client, route: str, body: bytes | dict[str, Any], status: int, text: str
) -> None:
    """Each refusal of the contract's table: its status, and a body with `error` and nothing else."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = http.post(f"/api/{route}", content=content)

    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"] == JSON


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", f"/api/blobs/sha256:{'0' * 64}"),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}"),
    ],
)
def test_managing_models_is_refused(http: httpx.Client, method: str, path: str) -> None:
    """Whatever the body, the answer is 403 and says what to do instead."""
    response = http.request(method, path, content=b'{"model":"mistral"}')

    assert response.status_code == 403
    if method != "HEAD":
        assert list(response.json()) == ["error"]
        assert "managing models is off: set AKASHLLM_ADMIN_KEY" in response.json()["error"]


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405)])
def test_other_methods_are_refused_as_by_gin(http: httpx.Client, method: str, status: int) -> None:
    """A known path with the wrong method is 405, an unknown path 404, both in plain text."""
    wrong = http.request(method, "/api/chat")
    unknown = http.get("/api/nothing")

    assert (wrong.status_code, wrong.text) == (status, "405 method not allowed")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")


def test_a_slash_too_many_is_forgiven(http: httpx.Client) -> None:
    """Where Ollama redirects to the path without a slash at its end, the answer itself comes."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False}

    assert http.get("/api/tags/").json() == http.get("/api/tags").json()
    assert http.post("/api/chat/", json=body).json()["message"]["content"] == "You said: hi"
    assert http.post("/api/chat/", json={"model": 1}).json() == http.post("/api/chat", json={"model": 1}).json()
    assert http.get("/api/tags//").status_code == http.get("/api/chat//x").status_code == 404


def test_the_version_is_that_of_the_contract(http: httpx.Client) -> None:
    """Clients compare it; HEAD works as clients use it to find the service."""
    assert http.get("/api/version").json() == {"version": CONTRACT}
    assert http.head("/api/version").status_code == 200
    assert http.head("/api/tags").status_code == 200
    assert http.get("/api/status").json() == {"cloud": {"disabled": True, "source": "config"}}


def test_a_stream_is_lines_of_json(http: httpx.Client) -> None:
    """NDJSON without a charset, an object a line, `done` on the last and nowhere else."""
    response = http.post("/api/chat", content=b'{"model":"tiny","messages":[{"role":"user","content":"a b"}]}')
    found = lines(response)

    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    assert list(found[0]) == ["model", "created_at", "message", "done"]


def test_a_single_object_is_json(http: httpx.Client) -> None:
    """`stream: false` is `application/json`; only the first JSON value of a body counts."""
    body = b'{"Model":"tiny","PROMPT":"a b","stream":false,"think":false}{"model":"x"} junk'
    response = http.post("/api/generate", content=body)

    assert response.headers["content-type"] == JSON
    assert response.json()["response"] == "You said: a b"
    assert list(response.json()) == [
        "model",
        "created_at",
        "response",
        "done",
        "done_reason",
        "context",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]


@pytest.mark.parametrize("route", ["generate", "chat"])
def test_an_engine_that_dies_ends_the_stream_with_its_error(http: httpx.Client, route: str) -> None:
    """What was said stays said; the last line is the error, and no line claims to be done."""
    body = {"model": "tiny", "prompt": "die", "messages": [{"role": "user", "content": "die"}], "think": False}
    streamed = http.post(f"/api/{route}", json=body)
    whole = http.post(f"/api/{route}", json=body | {"stream": False})
    found = lines(streamed)

    assert streamed.status_code == 200
    assert list(found[-1]) == ["error"]
    assert len(found) == 3
    assert not any(line.get("done") for line in found)
    assert whole.status_code == 500
    assert list(whole.json()) == ["error"]


def test_raw_gives_no_context(http: httpx.Client) -> None:
    """A raw prompt is sent as it is and nothing comes back to continue from."""
    body = {"model": "tiny", "prompt": "a", "raw": True, "stream": False}

    assert "context" not in http.post("/api/generate", json=body).json()


@pytest.mark.parametrize("top", [0, 2])
def test_log_probabilities_come_with_each_piece(http: httpx.Client, top: int) -> None:
    """In a stream with the text they belong to, and gathered in a single answer."""
    body = {"model": "tiny", "prompt": "a", "think": False, "logprobs": True, "top_logprobs": top}
    streamed = lines(http.post("/api/generate", json=body))
    whole = http.post("/api/generate", json=body | {"stream": False}).json()
    pieces = [entry for line in streamed for entry in line.get("logprobs", ())]

    assert pieces == whole["logprobs"]
    assert "".join(entry["token"] for entry in pieces) == whole["response"]
    assert all(len(entry.get("top_logprobs", ())) == top for entry in pieces)


def test_loading_and_unloading_answer_with_one_object(http: httpx.Client) -> None:
    """Nothing to say loads, with a keep-alive of 0 unloads, and `ps` says which."""
    loaded = http.post("/api/chat", json={"model": "tiny", "messages": []})
    running = http.get("/api/ps").json()["models"]
    unloaded = http.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
    idle = http.get("/api/ps").json()["models"]
    again = http.post("/api/generate", json={"model": "tiny", "keep_alive": "10m"})

    assert loaded.headers["content-type"] == JSON
    assert loaded.json()["message"] == {"role": "assistant", "content": ""}
    assert [answer.json()["done_reason"] for answer in (loaded, unloaded, again)] == ["load", "unload", "load"]
    assert [model["name"] for model in running] == ["tiny:latest"]
    assert idle == []
    assert http.get("/api/ps").json()["models"][0]["expires_at"] < "2300"
    http.post("/api/generate", json={"model": "tiny", "keep_alive": -1})
    assert http.get("/api/ps").json()["models"][0]["expires_at"] > "2300"


def test_a_keep_alive_of_0_unloads_after_the_answer() -> None:
    """The answer is whole, and then the model goes; the next request brings it back."""
    engine = ScriptedEngine(script)
    with serving(engine, Settings(log_level="error")) as url, httpx.Client(base_url=url) as client:
        body = {"model": "tiny", "prompt": "a", "keep_alive": 0, "stream": False, "think": False}
        assert client.post("/api/generate", json=body).json()["response"] == "You said: a"
        for _ in range(100):
            if not client.get("/api/ps").json()["models"]:
                break
        assert client.get("/api/ps").json() == {"models": []}
        assert client.post("/api/generate", json=body | {"keep_alive": None}).json()["done"]
        assert engine.loads == 2


def test_embedding_nothing_is_an_empty_list(http: httpx.Client) -> None:
    """No input loads the model and gives no vector."""
    assert http.post("/api/embed", json={"model": "tiny"}).json() == {"model": "tiny", "embeddings": []}
    assert http.post("/api/embed", json={"model": "tiny", "input": ""}).json()["embeddings"] == []
    assert http.post("/api/embeddings", json={"model": "tiny"}).json() == {"embedding": []}


def test_embeddings_answer_in_order(http: httpx.Client) -> None:
    """One vector an input, counted; fewer dimensions where they are asked for."""
    both = http.post("/api/embed", json={"model": "tiny", "input": ["a", "b"]}).json()
    first = http.post("/api/embed", json={"model": "tiny", "input": "a"}).json()
    short = http.post("/api/embed", json={"model": "tiny", "input": "a", "dimensions": 3}).json()

    assert list(both)[:2] == ["model", "embeddings"]
    assert both["embeddings"][0] == first["embeddings"][0]
    assert both["prompt_eval_count"] == 2
    assert len(short["embeddings"][0]) == 3


def test_show_does_not_say_where_the_file_is(http: httpx.Client) -> None:
    """Name and model are one field; the file's folder stays the service's own."""
    by_name = http.post("/api/show", json={"name": "LLAMA3"})
    by_model = http.post("/api/show", json={"model": "llama3:latest"})

    assert by_name.json()["model_info"] == by_model.json()["model_info"]
    assert str(TINY.parent) not in by_name.text
    assert "# FROM llama3:latest" in by_model.json()["modelfile"]


def test_only_options_of_the_table_reach_the_engine() -> None:
    """Words of other servers in a request are neither options nor errors, and never get through."""
    engine = ScriptedEngine(lambda request: Reply("ok"))
    body = {
        "model": "tiny",
        "messages": USER,
        "stream": False,
        "tools": [],
        "grammar": "root ::= 'x'",
        "n_discard": -1,
        "chat_template": "{{ 7 * 7 }}",
        "options": {"n_discard": -1, "cache_prompt": False, "samplers": ["x"], "num_gpu": 99, "stop": "end"},
    }
    with serving(engine, Settings(log_level="error")) as url:
        assert httpx.post(f"{url}/api/chat", json=body).json()["message"]["content"] == "ok"
    (request,) = engine.requests

    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools == ()
    assert request.constraint is None
    assert request.stop == ("end",)


def test_an_overlong_prompt_is_refused_with_both_numbers() -> None:
    """A prompt longer than the context is refused with both numbers, in a stream too."""
    engine = ScriptedEngine(script)
    with serving(engine, Settings(log_level="error")) as url, httpx.Client(base_url=url) as client:
        response = client.post("/api/generate", json={"model": "tiny", "prompt": "a " * 3000})

    assert response.status_code == 400
    assert "3000" in response.json()["error"] or "3001" in response.json()["error"]
    assert "2048" in response.json()["error"]
