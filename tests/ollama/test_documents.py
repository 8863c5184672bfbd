"""The requests of the user's documents, sent as they stand there, without a Content-Type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest


class Example(NamedTuple):
    """A curl line: `body` is what follows -d, None for a plain GET."""

    name: str
    path: str
    body: str | None


def read_examples() -> list[Example]:
    """The examples of `documents.txt`."""
    text = Path(__file__).with_name("documents.txt").read_text(encoding="utf-8")
    found = []
    for block in text.split("\n== ")[1:]:
        head, _, body = block.partition("\n")
        name, path = head.split(" | ")
        found.append(Example(name, path, body or None))
    return found


EXAMPLES = read_examples()


def check(example: Example, text: str) -> None:
    """The answer has the fields that the documents show for it."""
    asked: dict[str, Any] = json.loads(example.body or "{}")
    bodies: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    last = bodies[-1]
    assert not any("error" in body for body in bodies)
    match example.path:
        case "/api/generate" if "prompt" not in asked:
            assert last | {"created_at": ""} == {
                "model": "llama3",
                "created_at": "",
                "response": "",
                "done": True,
                "done_reason": "load",
            }
        case "/api/generate" | "/api/chat":
            key = "response" if example.path == "/api/generate" else "message"
            assert all({"model", "created_at", key, "done"} <= body.keys() for body in bodies)
            assert last["done"]
            assert {"total_duration", "prompt_eval_count", "eval_count"} <= last.keys()
            assert ("context" in last) == (key == "response")
            assert (len(bodies) > 1) == asked.get("stream", True)
            if "format" in asked and last["done_reason"] == "stop":
                assert isinstance(json.loads(last["response"]), dict)
        case "/api/tags" | "/api/ps":
            assert len(last["models"][0]["digest"]) == 64
        case "/api/show":
            assert last["details"]["family"] == "llama"
            tokens = last["model_info"]["tokenizer.ggml.tokens"]
            assert isinstance(tokens, list) == asked.get("verbose", False)
        case _:
            assert example.path == "/api/embeddings"
            assert all(isinstance(value, int | float) for value in last["embedding"])
            assert last["embedding"]


def test_the_documents_are_all_here() -> None:
    """Nothing was lost on the way: every example, with the options example among them."""
    assert len(EXAMPLES) == 21
    assert sum("num_thread" in (example.body or "") for example in EXAMPLES) == 1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_each_example_is_answered(example: Example, url: str) -> None:
    """The body as bytes with no Content-Type gets the answer the document shows."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.post("/api/generate", content=b'{"model":"tiny"}')
        if example.body is None:
            response = client.get(example.path)
        else:
            response = client.post(example.path, content=example.body.encode())

    assert response.status_code == 200
    check(example, response.text)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_each_curl_line_works(example: Example, scripted: str) -> None:
    """The curl command, which labels the body as a form, gets the same."""
    data = [] if example.body is None else ["-d", example.body]
    line = ["curl", "-sS", "--fail-with-body", "--max-time", "30", f"{scripted}{example.path}", *data]
    done = subprocess.run(line, capture_output=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    check(example, done.stdout.decode())


def test_the_same_seed_gives_the_same_answer(url: str) -> None:
    """The guide's promise: equal prompt, seed and sampling options, equal answer."""
    body = next(
        example.body for example in EXAMPLES if "seed" in (example.body or "") and example.path == "/api/chat"
    )
    assert body is not None
    with httpx.Client(base_url=url, timeout=60) as client:
        answers = [client.post("/api/chat", content=body.encode()).json()["message"] for _ in range(2)]

    assert answers[0] == answers[1]
