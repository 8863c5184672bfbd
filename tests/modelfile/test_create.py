"""Models made over HTTP, in the form of the user's document and in today's, by curl and by Ollama's client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from akashllm.digests import Sha256
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.models import manifest as kinds
from akashllm.server.models.store import ModelStore
from tests.fleet.lora import write_lora
from tests.store.conftest import Shelf

DIGEST = Sha256.of_file(TINY)
THERE = f"/usr/share/ollama/.ollama/models/blobs/{DIGEST.filename}"
"""Where the user's document has the uploaded file, which is another machine's folder."""


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


def upload(client: ollama.Client) -> str:
    """Put the bundled model's file into the store."""
    return client.create_blob(TINY)


def lines(service: str, **body: Any) -> list[dict[str, Any]]:
    """The lines of progress."""
    answer = httpx.post(f"{service}/api/create", json=body, timeout=60)
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(service: str, **body: Any) -> tuple[int, str]:
    """Status and message."""
    answer = httpx.post(f"{service}/api/create", json={"stream": False, **body}, timeout=60)
    return answer.status_code, answer.json().get("error", "")


def test_the_users_document_makes_a_model(service: str, store: ModelStore) -> None:
    """Its two curl lines: the upload, then FROM with the path of the blob on the machine it was written on."""
    url = f"{service}/api/blobs/{DIGEST}"
    assert curl("-T", str(TINY), "-X", "POST", url) == (201, "")
    body = json.dumps({"name": "test1", "stream": False, "modelfile": f"FROM {THERE}"})

    assert curl(f"{service}/api/create", "-d", body) == (200, '{"status":"success"}')

    made = store.get(ModelName.parse("test1"))
    assert made.weights.name == DIGEST.filename
    assert made.config["model_family"] == "llama"
    assert [kind for kind, _, _ in made.layers] == [kinds.MODEL]
    listed = json.loads(curl(f"{service}/api/tags")[1])["models"]
    assert {"test1:latest"} <= {one["name"] for one in listed}


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_what_a_client_was_told_is_here_stays_for_its_model(
    client: ollama.Client, service: str, root: Path, method: str
) -> None:
    """A file that need not be sent again outlives the deletion of its last model, and goes with the new one."""
    upload(client)
    assert lines(service, name="old", files={"a.gguf": str(DIGEST)})[-1] == {"status": "success"}

    body = TINY.read_bytes() if method == "POST" else b""
    told = httpx.request(method, f"{service}/api/blobs/{DIGEST}", content=body)
    client.delete("old")
    made = lines(service, name="new", files={"a.gguf": str(DIGEST)})
    client.delete("new")

    assert told.status_code == 200
    assert made[-1] == {"status": "success"}
    assert not any((root / "blobs").iterdir())


def test_a_whole_modelfile_becomes_layers(
    client: ollama.Client, service: str, store: ModelStore, root: Path
) -> None:
    """Everything a Modelfile says is there again, in the store and in what show prints of it."""
    upload(client)
    modelfile = "\n".join(
        (
            f"FROM @{DIGEST}",
            'TEMPLATE """{{ if .System }}{{ .System }}',
            '{{ end }}{{ .Prompt }}"""',
            "SYSTEM You are Marshal Tianpeng.",
            "PARAMETER temperature 1",
            "PARAMETER top_k 100",
            'PARAMETER stop "<|begin_of_text|>"',
            "PARAMETER stop <|end|>",
            "LICENSE first",
            "MESSAGE user hi",
            "MESSAGE assistant hello",
        )
    )
    told = [line["status"] for line in lines(service, name="pig", modelfile=modelfile)]

    assert told[0] == "parsing GGUF"
    assert told[1:6] == [
        f"creating {what} layer" for what in ("template", "system", "license", "parameters", "messages")
    ]
    assert told[6] == f"using already created layer {DIGEST}"
    assert told[-2:] == ["writing manifest", "success"]
    made = store.get(ModelName.parse("pig"))
    assert made.template == "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}"
    assert made.system == "You are Marshal Tianpeng."
    assert dict(made.parameters) == {"temperature": 1.0, "top_k": 100, "stop": ("<|begin_of_text|>", "<|end|>")}
    params = next(digest for kind, digest, _ in made.layers if kind == kinds.PARAMS)
    assert (root / "blobs" / params.replace(":", "-")).read_bytes() == (
        b'{"stop":["<|begin_of_text|>","<|end|>"],"temperature":1,"top_k":100}\n'
    )
    assert made.licenses == ("first",)
    assert made.messages == (("user", "hi"), ("assistant", "hello"))

    shown = client.show("pig")
    assert shown.template == made.template
    assert (shown.parameters or "").splitlines() == [
        'stop                           "<|begin_of_text|>"',
        'stop                           "<|end|>"',
        "temperature                    1",
        "top_k                          100",
    ]
    again = lines(service, name="again", modelfile=shown.modelfile)
    assert again[-1] == {"status": "success"}
    copy = store.get(ModelName.parse("again"))
    assert (copy.template, copy.system, copy.messages, copy.licenses) == (
        made.template,
        made.system,
        made.messages,
        made.licenses,
    )
    assert copy.parameters == made.parameters


def test_the_official_client_builds_on_what_it_made(client: ollama.Client, store: ModelStore) -> None:
    """`files`, then `from`: inherited, replaced, merged, added as Ollama does it."""
    digest = upload(client)
    first = client.create(
        "base",
        files={"tiny.gguf": digest},
        template="{{ .Prompt }}",
        system="One.",
        license="MIT",
        parameters={"temperature": 0, "stop": "x", "top_k": 5},
        messages=[{"role": "user", "content": "q"}],
    )
    assert first.status == "success"
    steps = [
        step.status
        for step in client.create(
            "next",
            from_="base",
            system="Two.",
            license=["MIT", "more"],
            parameters={"top_k": 9, "stop": ["a", "b"]},
            stream=True,
        )
    ]

    base, made = store.get(ModelName.parse("base")), store.get(ModelName.parse("next"))
    assert steps[-2:] == ["writing manifest", "success"]
    assert f"using existing layer {DIGEST}" in steps
    assert sum(str(step).startswith("creating new layer") for step in steps) == 3
    assert (made.template, made.system, made.messages) == (base.template, "Two.", base.messages)
    assert base.system == "One."
    assert dict(made.parameters) == {"temperature": 0.0, "stop": ("a", "b"), "top_k": 9}
    assert made.licenses == ("MIT", "more")
    assert made.config["rootfs"]["diff_ids"] == [digest for _, digest, _ in made.layers]


def test_the_deployed_model_can_be_built_on(client: ollama.Client, store: ModelStore) -> None:
    """`FROM tiny` works though the model the service was started with is in no store."""
    client.create("mine", from_="tiny", system="Be mine.")

    made = store.get(ModelName.parse("mine"))
    assert made.weights.read_bytes()[:4] == b"GGUF"
    assert made.system == "Be mine."


def test_a_base_that_is_not_there_is_pulled(
    client: ollama.Client, shelf: Shelf, store: ModelStore, weights: bytes
) -> None:
    """The lines of the pull come first; the base stays in the store under its own name."""
    shelf.offer("library/far", model=weights, template=b"{{ .Prompt }}", params=b'{"top_k":7}')
    told = [step.status for step in client.create("near", from_="far", system="Near.", stream=True)]

    assert told[:2] == ["pulling manifest", f"pulling {DIGEST.hex[:12]}"]
    assert told.count("success") == 1
    assert told[-1] == "success"
    made = store.get(ModelName.parse("near"))
    assert (made.template, made.system, dict(made.parameters)) == ("{{ .Prompt }}", "Near.", {"top_k": 7})
    assert store.get(ModelName.parse("far")).weights == made.weights


def test_an_adapter_is_added(client: ollama.Client, service: str, store: ModelStore, tmp_path: Path) -> None:
    """A LoRA file is told from a model by what it says of itself, in both forms of the request."""
    digest = client.create_blob(write_lora(tmp_path / "lora.gguf", strength=0.1))
    client.create("one", from_="tiny", adapters={"lora.gguf": digest})
    old = lines(service, name="two", modelfile=f"FROM tiny\nADAPTER @{digest}")

    assert old[-1] == {"status": "success"}
    for name in ("one", "two"):
        assert [file.name for file in store.get(ModelName.parse(name)).adapters] == [digest.replace(":", "-")]
    assert refused(service, model="m", files={"lora.gguf": digest}) == (
        400,
        "lora.gguf is an adapter, and a model is expected there",
    )


def test_a_model_can_be_made_of_itself(client: ollama.Client, store: ModelStore) -> None:
    """The name passes to what is new; what both have stays."""
    client.create("m", from_="tiny", system="One.", license="MIT")
    client.create("m", from_="m", system="Two.")

    made = store.get(ModelName.parse("m"))
    assert (made.system, made.licenses) == ("Two.", ("MIT",))
    assert made.weights.is_file()


@pytest.mark.parametrize(
    ("template", "renderer", "used"),
    [
        ("{{ .Prompt }}", "", True),
        ("{{ .Prompt }}", "qwen3", False),
        ("{{ .Prompt }}\n{{ .Response }}", "qwen3", True),
        ("  \n", "", False),
    ],
)
def test_a_template_that_only_holds_a_place_is_not_used(
    template: str, renderer: str, used: bool, client: ollama.Client, service: str, store: ModelStore
) -> None:
    """Beside a RENDERER, which is Ollama's own code, the GGUF file's template serves."""
    modelfile = f'FROM tiny\nTEMPLATE """{template}"""'
    if renderer:
        modelfile += f"\nRENDERER {renderer}\nPARSER {renderer}"
    assert lines(service, name="m", modelfile=modelfile)[-1] == {"status": "success"}

    made, shown = store.get(ModelName.parse("m")), client.show("m")
    assert made.template == template
    assert made.go_template == (template if used else None)
    assert (shown.template == template) is used
    assert ("RENDERER qwen3\nPARSER qwen3" in (shown.modelfile or "")) is bool(renderer)


def test_layers_that_nothing_uses_go(client: ollama.Client, root: Path) -> None:
    """Making a model again under its name leaves nothing of the old one behind."""
    client.create("m", from_="tiny", system="A long system prompt.")
    client.create("m", from_="tiny", system="Another.")

    texts = [path.read_bytes() for path in (root / "blobs").iterdir() if path.stat().st_size < 1000]
    assert b"Another." in texts
    assert b"A long system prompt." not in texts


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "m"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "", "from": "tiny"}, 400, "invalid model name"),
        ({"model": "../m", "from": "tiny"}, 400, "invalid model name"),
        ({"model": "m", "from": "../tiny"}, 400, "invalid model name"),
        ({"model": "m", "files": {}}, 400, "no files provided to convert"),
        ({"model": "m", "files": {"/etc/passwd": str(DIGEST)}}, 400, "file path must be relative"),
        ({"model": "m", "files": {"../x.gguf": str(DIGEST)}}, 400, "file path must be relative"),
        ({"model": "m", "files": {"a/./x.gguf": str(DIGEST)}}, 400, "file path must be relative"),
        ({"model": "../m", "files": {"x.gguf": ""}}, 400, "invalid digest format"),
        ({"model": "m", "files": {"x.gguf": "sha256:" + "0" * 63}}, 400, "invalid digest format"),
        ({"model": "m", "files": {"x.gguf": "sha256:" + "0" * 64}}, 400, "blob not found for x.gguf"),
        ({"model": "m", "files": {"x.safetensors": str(DIGEST)}}, 400, "supplied file was not in GGUF format"),
        (
            {"model": "m", "from": "tiny", "template": "\n{{ if }}"},
            400,
            "template error: template: :2: missing value for if",
        ),
        (
            {"model": "m", "from": "tiny", "info": {"model_family": 1}},
            400,
            'info field "model_family" must be a string',
        ),
        (
            {"model": "m", "from": "tiny", "info": {"context_length": -1}},
            400,
            'info field "context_length" must be a non-',
        ),
        (
            {"model": "m", "from": "tiny", "parameters": {"top_k": "x"}},
            400,
            'parameter "top_k" must be of type integer',
        ),
        ({"model": "m", "from": "tiny", "messages": [{"role": "robot"}]}, 400, "message role must be one of"),
        (
            {"model": "m", "from": "tiny", "quantize": "Q2_K"},
            500,
            "unsupported quantization type Q2_K - supported types are F32, F16,",
        ),
        (
            {"model": "m", "from": "tiny", "quantize": "q4_K_M"},
            500,
            "quantization is only supported for F16, BF16 and F32 models",
        ),
        ({"model": "m", "from": "tiny", "adapters": {"a.gguf": str(DIGEST)}}, 400, "a.gguf is a model, and"),
        (
            {"model": "m", "from": "tiny", "adapters": {"a": str(DIGEST), "b": str(DIGEST)}},
            400,
            "only one adapter is currently supported",
        ),
        (
            {"model": "m", "from": "tiny", "draft_files": {"a": str(DIGEST)}},
            400,
            "draft models are not supported",
        ),
        ({"model": "tiny", "from": "tiny"}, 400, "model 'tiny:latest' is what this service was started with"),
        ({"name": "m", "modelfile": "SYSTEM x"}, 400, "no FROM line"),
        ({"name": "m", "modelfile": "FROM tiny\nPARAMETER x 1"}, 400, "(line 2): unknown parameter 'x'"),
        (
            {"name": "m", "modelfile": "FROM tiny\nTEMPLATE {{ .Prompt"},
            400,
            "template error: template: :1: unclosed action",
        ),
        ({"name": "m", "modelfile": "FROM tiny\nDRAFT d.gguf"}, 400, "DRAFT models are not supported"),
        (
            {"name": "m", "modelfile": "FROM tiny\nADAPTER other"},
            400,
            "ADAPTER names no file of the model store",
        ),
        ({"name": "m", "modelfile": f"FROM {THERE}"}, 400, "blob not found for 0.gguf"),
        (
            {"name": "m", "path": "/etc/passwd"},
            400,
            "error reading modelfile: path names no file of the model store",
        ),
    ],
)
def test_what_cannot_be_made_is_said(
    body: dict[str, Any], status: int, words: str, service: str, root: Path
) -> None:
    """Faults have Ollama's status and words, and leave no model behind."""
    found = refused(service, **body)

    assert found[0] == status
    assert found[1].startswith(words)
    assert not list((root / "manifests").rglob("latest"))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "./../secret.gguf",
        "/proc/self/environ",
        "~/.ssh/id_rsa",
        "link.gguf",
        "C:\\secret.gguf",
        "blobs/../../secret.gguf",
        "/nowhere/at/all.gguf",
        "a\x00b.gguf",
    ],
)
@pytest.mark.parametrize("command", ["FROM", "ADAPTER"])
def test_a_modelfile_reads_nothing_outside_the_store(command: str, path: str, service: str, root: Path) -> None:
    """Whether something is there or not, the answer is the same, and names the line it is about."""
    root.mkdir()
    root.with_name("secret.gguf").write_bytes(TINY.read_bytes())
    (root / "link.gguf").symlink_to(root.with_name("secret.gguf"))
    base = "" if command == "FROM" else "FROM tiny\n"

    status, words = refused(service, name="m", modelfile=f"{base}{command} {path}")

    assert status == 400
    assert words.startswith(f"{command} names no file of the model store")


def test_a_file_in_the_stores_folder_may_be_named(service: str, root: Path, store: ModelStore) -> None:
    """A GGUF file that somebody put into the volume beside the blobs is taken into the store."""
    root.mkdir()
    (root / "mine.gguf").write_bytes(TINY.read_bytes())
    (root / "Modelfile").write_text("FROM ./mine.gguf\nSYSTEM from a file\n")

    assert refused(service, name="m", path="Modelfile") == (200, "")

    made = store.get(ModelName.parse("m"))
    assert made.weights.name == DIGEST.filename
    assert made.system == "from a file"


def test_damaged_files_are_refused(client: ollama.Client, service: str, root: Path, weights: bytes) -> None:
    """Truncated, bit-flipped on the disk after the upload, or no GGUF at all: no model of any of them."""
    for data, words in (
        (weights[: len(weights) // 2], "is not a GGUF file that can be read"),
        (weights[:100], "is not a GGUF file that can be read"),
        (b"PK\x03\x04" + weights, "supplied file was not in GGUF format"),
        (b"", "supplied file was not in GGUF format"),
    ):
        digest = Sha256.of(data)
        httpx.post(f"{service}/api/blobs/{digest}", content=data).raise_for_status()
        status, said = refused(service, model="m", files={"m.gguf": str(digest)})
        assert (status, words in said) == (400, True)
    upload(client)
    path = root / "blobs" / DIGEST.filename
    flipped = bytearray(weights)
    flipped[-1000] ^= 1
    path.write_bytes(flipped)

    assert refused(service, model="m", files={"m.gguf": str(DIGEST)}) == (
        400,
        f"the file {DIGEST} was changed since it was uploaded",
    )


def test_errors_after_the_first_line_come_as_a_line(client: ollama.Client, service: str) -> None:
    """With a stream the official client raises what the line says."""
    with pytest.raises(ollama.ResponseError, match="blob not found"):
        list(client.create("m", files={"m.gguf": f"sha256:{'0' * 64}"}, stream=True))

    assert lines(service, model="m", **{"from": "gone"})[-1].keys() == {"error"}
