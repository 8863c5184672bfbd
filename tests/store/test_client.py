"""Managing models with Ollama's own client and with curl, against Debian's registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from akashllm.digests import Sha256
from akashllm.models import TINY
from akashllm.server.models import push as push_module
from akashllm.server.models.manifest import MODEL
from akashllm.server.models.steps import Tell
from tests.store.build import blob, files, model

DIGEST = hashlib.sha256(TINY.read_bytes()).hexdigest()


@pytest.fixture
def client(service: str) -> Iterator[ollama.Client]:
    """The official client."""
    found = ollama.Client(host=service)
    yield found
    found._client.close()


def curl(*arguments: str) -> tuple[int, str]:
    """Status and body of a curl."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_a_model_makes_the_round_through_a_registry(client: ollama.Client, registry: str, root: Path) -> None:
    """Copied, pushed, deleted and pulled again it is the same model, byte for byte, with Ollama's lines."""
    made = model(root, "llama3.1", template="{{ .Prompt }}", system="Be brief.", params={"temperature": 0.5})
    before = files(root)
    there = f"{registry}/me/tiny:v1"
    client.copy("llama3.1", there)
    pushed = [step.model_dump(exclude_none=True) for step in client.push(there, insecure=True, stream=True)]
    client.delete(there)
    client.delete("llama3.1")
    assert files(root) == set()
    assert client.list().models[0].model == "tiny:latest"

    pulled = [step.model_dump(exclude_none=True) for step in client.pull(there, insecure=True, stream=True)]

    short = [layer.digest[7:19] for layer in made.files]
    assert order(pushed) == [
        "retrieving manifest",
        *(f"pushing {each}" for each in short),
        "pushing manifest",
        "success",
    ]
    assert order(pulled) == [
        "pulling manifest",
        *(f"pulling {each}" for each in short),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    last = [step for step in pulled if step.get("digest") == made.layers[0].digest][-1]
    assert last["completed"] == last["total"] == TINY.stat().st_size
    assert {Path(path).name for path in files(root)} == {Path(path).name for path in before} - {"latest"} | {
        "v1"
    }
    client.copy(there, "llama3.1")
    assert before <= files(root)
    assert (root / "manifests" / registry / "me/tiny/v1").read_bytes() == made.encode()
    listed = {each.model: each for each in client.list().models}
    assert listed["llama3.1:latest"].digest == Sha256.of(made.encode()).hex
    assert listed["llama3.1:latest"].size == made.size


def order(steps: list[dict[str, object]]) -> list[object]:
    """The statuses, each once in a row."""
    return [
        step["status"] for at, step in enumerate(steps) if not at or steps[at - 1]["status"] != step["status"]
    ]


def test_without_a_stream_there_is_one_answer(client: ollama.Client, registry: str, root: Path) -> None:
    """`stream: false` waits for the end and says success, for push and pull."""
    model(root, "m")
    there = f"{registry}/me/whole"
    client.copy("m", there)

    assert client.push(there, insecure=True).status == "success"
    assert client.push(there, insecure=True).status == "success"
    client.delete(there)
    assert client.pull(there, insecure=True).status == "success"
    assert client.pull(there, insecure=True).status == "success"


def test_what_is_missing_is_said_in_ollamas_words(client: ollama.Client, registry: str, root: Path) -> None:
    """A model that the registry has not, and one that the store has not."""
    with pytest.raises(ollama.ResponseError, match=r"^pull model manifest: file does not exist") as absent:
        client.pull(f"{registry}/me/absent", insecure=True)
    with pytest.raises(ollama.ResponseError, match=r"^pull model manifest: file does not exist"):
        list(client.pull(f"{registry}/me/absent", insecure=True, stream=True))
    with pytest.raises(ollama.ResponseError, match="model 'mistral' not found") as delete:
        client.delete("mistral")
    with pytest.raises(ollama.ResponseError, match='model "mistral" not found') as copy:
        client.copy("mistral", "x")
    with pytest.raises(ollama.ResponseError, match="model 'mistral:latest' not found") as push:
        list(client.push("mistral", stream=True))

    assert [error.value.status_code for error in (absent, delete, copy)] == [500, 404, 404]
    assert push.value.error
    assert files(root) == set()


def test_push_in_parts_and_over_a_broken_connection(
    client: ollama.Client, registry: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file larger than one request arrives whole, also where the connection breaks in the middle of one."""
    weights = bytes(range(256)) * 4096
    model(root, f"{registry}/me/parts", weights)
    monkeypatch.setattr(push_module, "PART", 300_000)
    real = push_module._read
    broken: list[int] = []

    async def breaking(path: Path, start: int, end: int, tell: Tell) -> AsyncIterator[bytes]:
        async for chunk in real(path, start, end, tell):
            if start >= 300_000 and not broken:
                broken.append(start)
                yield chunk[:1000]
                raise httpx.WriteError("cut")
            yield chunk

    async def soon(_: float) -> None:
        """As if time had passed."""

    monkeypatch.setattr(push_module, "_read", breaking)
    monkeypatch.setattr(push_module, "_sleep", soon)

    assert client.push(f"{registry}/me/parts", insecure=True).status == "success"

    assert broken == [300_000]
    client.delete(f"{registry}/me/parts")
    client.pull(f"{registry}/me/parts", insecure=True)
    assert (root / "blobs" / Sha256.of(weights).filename).read_bytes() == weights


def test_the_client_uploads(client: ollama.Client, root: Path) -> None:
    """`create_blob` puts a file into the store once; the second time nothing is sent."""
    assert client.create_blob(TINY) == f"sha256:{DIGEST}"
    assert client.create_blob(TINY) == f"sha256:{DIGEST}"

    assert (root / f"blobs/sha256-{DIGEST}").read_bytes() == TINY.read_bytes()


def test_the_client_uploads_in_chunks(service: str, root: Path) -> None:
    """The asynchronous client sends no length."""

    async def upload() -> str:
        client = ollama.AsyncClient(host=service)
        try:
            return str(await client.create_blob(TINY))
        finally:
            await client._client.aclose()

    assert asyncio.run(upload()) == f"sha256:{DIGEST}"
    assert (root / f"blobs/sha256-{DIGEST}").read_bytes() == TINY.read_bytes()


def test_the_documents_upload_works_as_it_stands(service: str, root: Path) -> None:
    """`curl -T FILE -X POST .../api/blobs/sha256:...`: 201, then 200, and HEAD finds it."""
    url = f"{service}/api/blobs/sha256:{DIGEST}"

    assert curl("-T", str(TINY), "-X", "POST", url) == (201, "")
    assert curl("-T", str(TINY), "-X", "POST", url) == (200, "")
    assert curl("--head", url)[0] == 200
    assert curl("--head", url.replace("sha256:", "sha256-"))[0] == 200
    assert curl("--head", f"{service}/api/blobs/sha256:{'0' * 64}")[0] == 404
    assert files(root) == {f"blobs/sha256-{DIGEST}"}


def test_the_documents_listing_and_deletion_work_as_they_stand(service: str, root: Path) -> None:
    """`/api/tags`, `/api/show` with `name` and `verbose`, and `DELETE /api/delete` with a name in the body."""
    made = model(
        root,
        "llama3.1",
        template="{{ .System }} {{ .Prompt }}",
        system="你是西游记中的猪八戒",
        params={"top_k": 100, "stop": ["<|x|>", "y"]},
    )

    status, tags = curl(f"{service}/api/tags")
    _, shown = curl(f"{service}/api/show", "-d", '{\n  "name": "llama3.1","verbose":true \n}')
    deleted = curl("-X", "DELETE", f"{service}/api/delete", "-d", '{"name": "llama3.1"}')
    again = curl("-X", "DELETE", f"{service}/api/delete", "-d", '{"name": "llama3.1"}')

    assert status == 200
    entry = next(each for each in json.loads(tags)["models"] if each["name"] == "llama3.1:latest")
    assert entry["digest"] == Sha256.of(made.encode()).hex
    assert entry["size"] == made.size
    assert entry["details"]["family"] == "llama"
    assert entry["details"]["quantization_level"] == "Q8_0"
    show = json.loads(shown)
    assert show["system"] == "你是西游记中的猪八戒"
    assert show["template"] == "{{ .System }} {{ .Prompt }}"
    assert show["parameters"] == f'{"stop":<30} "<|x|>"\n{"stop":<30} "y"\n{"top_k":<30} 100'
    assert show["modelfile"].splitlines()[2:] == [
        "# FROM llama3.1:latest",
        "",
        f"FROM {root}/blobs/sha256-{DIGEST}",
        "TEMPLATE {{ .System }} {{ .Prompt }}",
        "SYSTEM 你是西游记中的猪八戒",
        "PARAMETER stop <|x|>",
        "PARAMETER stop y",
        "PARAMETER top_k 100",
    ]
    assert show["model_info"]["tokenizer.ggml.tokens"]
    assert deleted == (200, "")
    assert again == (404, '{"error":"model \'llama3.1\' not found"}')


def test_openais_listing_has_the_store_and_deletes_from_it(service: str, root: Path) -> None:
    """`/v1/models` lists both; `DELETE /v1/models/{id}` removes a stored model and never the deployed one."""
    model(root, "me/small:q8")
    with httpx.Client(base_url=service) as http:
        listed = [each["id"] for each in http.get("/v1/models").json()["data"]]
        os.utime(root / "manifests/registry.ollama.ai/me/small/q8", (1_700_000_000, 1_700_000_000))
        dates = [http.get("/v1/models").json()["data"][1], http.get("/v1/models/me/small:q8").json()]
        deleted = http.delete("/v1/models/me/small:q8")
        missing = http.delete("/v1/models/me/small:q8")
        deployed = http.delete("/v1/models/tiny")
        native = http.request("DELETE", "/api/delete", json={"model": "tiny"})

    assert listed == ["tiny", "me/small:q8"]
    assert [one["created"] for one in dates] == [1_700_000_000, 1_700_000_000]
    assert deleted.json() == {"id": "me/small:q8", "object": "model", "deleted": True}
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert (deployed.status_code, deployed.json()["error"]["code"]) == (403, "forbidden")
    assert "is what this service was started with" in native.json()["error"]
    assert files(root) == set()


def test_a_damaged_model_is_said_to_be_damaged(service: str, root: Path) -> None:
    """Listing goes on without it, and asking for it gives a reason a person understands."""
    made = model(root, "m")
    (root / "blobs" / made.layers[0].sha256.filename).unlink()
    blob(root, b"other", MODEL)

    with httpx.Client(base_url=service) as http:
        assert [each["name"] for each in http.get("/api/tags").json()["models"]] == ["tiny:latest"]
        shown = http.post("/api/show", json={"model": "m"})

    assert shown.status_code == 500
    assert "cannot be used: its file sha256:" in shown.json()["error"]
    assert "delete it, or pull it again" in shown.json()["error"]


def test_the_deployed_model_is_copied_into_the_store(client: ollama.Client, service: str, root: Path) -> None:
    """What the service was started with gets a second name too, and its own name is nobody else's."""
    client.copy("tiny", "me/again:v2")

    assert [one.model for one in client.list().models] == ["me/again:v2", "tiny:latest"]
    assert f"blobs/sha256-{DIGEST}" in files(root)
    before = files(root)
    with pytest.raises(ollama.ResponseError, match="choose another name") as refused:
        client.copy("me/again:v2", "Tiny")
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match='model "nope" not found') as missing:
        client.copy("nope", "other")
    assert missing.value.status_code == 404
    assert files(root) == before
    client.delete("me/again:v2")
    assert files(root) == set()


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/api/pull", "PullRequest"),
        ("POST", "/api/push", "PushRequest"),
        ("POST", "/api/create", "CreateRequest"),
        ("POST", "/api/copy", "CopyRequest"),
        ("DELETE", "/api/delete", "DeleteRequest"),
    ],
)
def test_what_is_no_object_is_named_as_go_names_it(service: str, method: str, path: str, kind: str) -> None:
    """Each management route complains of a body in Go's words, with the name of its own type."""
    answer = httpx.request(method, service + path, content=b"[]")
    assert answer.status_code == 400
    assert answer.json() == {"error": f"json: cannot unmarshal array into Go value of type api.{kind}"}


def test_a_pull_without_a_name_is_refused_in_ollamas_words(service: str) -> None:
    """Empty, null or left out, the name is an invalid one."""
    for body in (b"{}", b"null", b'{"name":""}', b'{"model":"x y"}'):
        answer = httpx.post(f"{service}/api/pull", content=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid model name"})


def test_a_push_of_what_is_not_there_says_so_in_its_lines(service: str) -> None:
    """Ollama's three lines: what it looks for, that it is not there, the error."""
    answer = httpx.post(f"{service}/api/push", content=b'{"model":"nope"}')
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[:2] == [{"status": "retrieving manifest"}, {"status": "couldn't retrieve manifest"}]
    assert list(lines[2]) == ["error"]
