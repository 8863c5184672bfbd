"""Models outside the catalogue, read from the beginnings of their files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akashllm.catalog.reference import Reference
from akashllm.catalog.remote import Hub
from akashllm.catalog.web import HubBusy, HubRefused
from akashllm.errors import BadModelFile, UnknownModel, Unreachable, UsageError
from akashllm.models import TINY
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from tests.catalog.hub import SHA, FakeHub, running_hub
from tests.gguf.build import Gguf, array, string, tensor, text, u32

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
INDEX = {"metadata": {"total_size": 16_060_522_496}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """An empty hub."""
    with running_hub() as running:
        yield running


def described(hub: FakeHub, name: str, engine: Any = "vllm", tag: str = "", token: str | None = None) -> Any:
    """What our side makes of a repository."""
    with Hub(token=token, hub=hub.url, registry=hub.url) as reader:
        return reader.describe(Reference("hub", name, tag), engine)


def safetensors_repository(hub: FakeHub, config: dict[str, Any] | None = None, **listing: Any) -> None:
    """`org/repo` with a config, an index and one part that is never read."""
    files = {
        "config.json": json.dumps(CONFIG if config is None else config).encode(),
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        "model-00001-of-00001.safetensors": b"never read",
    }
    hub.repository("org/repo", files, **listing)


def test_a_safetensors_repository(hub: FakeHub) -> None:
    """Shape from config.json, bytes from the index, the commit pinned, and no weight downloaded."""
    safetensors_repository(hub, cardData={"license": "apache-2.0"})
    model = described(hub, "org/repo")
    assert (model.shape.layers, model.shape.kv_heads, model.shape.head_size) == (32, 8, 128)
    assert dict(model.sizes) == {"bf16": 16_060_522_496}
    assert model.parameters == pytest.approx(8_030_261_248, rel=0.001)
    assert (model.context, model.licence, model.sources.hf_revision) == (131072, "apache-2.0", SHA)
    assert not any("00001-of-00001" in path for path, _, _ in hub.seen)


def test_a_single_file_is_read_by_its_header(hub: FakeHub) -> None:
    """Without an index the header of model.safetensors is fetched by range, and only that."""
    tensors = {"w": {"dtype": "BF16", "shape": [1000, 1000], "data_offsets": [0, 2_000_000]}}
    header = json.dumps({"__metadata__": {}, **tensors}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(2_000_000)
    hub.repository("org/repo", {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": data})
    model = described(hub, "org/repo")
    assert dict(model.sizes) == {"bf16": 2_000_000}
    assert model.parameters == 1_000_000
    assert hub.sent() == 8 + len(header)


def test_a_gguf_repository_is_read_by_ranges(hub: FakeHub) -> None:
    """The file of the quantisation asked for is chosen and its header read; projectors are no models."""
    data = TINY.read_bytes()
    files = {"mmproj-model-Q8_0.gguf": b"x", "Tiny-Q8_0.gguf": data, "Tiny-Q4_K_M.gguf": b"not this one"}
    hub.repository("org/Tiny-GGUF", files)
    model = described(hub, "org/Tiny-GGUF", "llamacpp", "q8_0")
    assert (model.shape.layers, model.shape.vocab, model.context) == (4, 1957, 2048)
    assert model.parameters == 3_517_952
    assert model.sources.gguf_file == "Tiny-Q8_0.gguf"
    assert model.sources.gguf_revision == SHA
    assert hub.sent() < len(data)


def test_a_plan_of_a_model_from_outside(hub: FakeHub) -> None:
    """A hub name plans end to end: the file pinned to its commit, its own size counted."""
    hub.repository("org/Tiny-GGUF", {"Tiny-Q8_0.gguf": TINY.read_bytes()})
    with Hub(hub=hub.url) as reader:
        made = make_plan(DeployRequest(model="hf.co/org/Tiny-GGUF:Q8_0"), lookup=reader.describe)
    assert dict(made.env)["AKASHLLM_MODEL"] == f"hf.co/org/Tiny-GGUF@{SHA}/Tiny-Q8_0.gguf"
    assert dict(made.env)["AKASHLLM_MODEL_NAME"] == "org/Tiny-GGUF"
    assert (made.quant, made.model.revision) == ("Q8_0", SHA)
    assert not any("pinned" in warning for warning in made.warnings)


def test_a_large_header_is_fetched_in_growing_parts(hub: FakeHub) -> None:
    """A vocabulary beyond the first part is fetched too; the data behind it never is."""
    words = 200_000
    pairs = [
        string("general.architecture", "llama"),
        *(u32(f"llama.{key}", value) for key, value in {
            "block_count": 2, "embedding_length": 64, "attention.head_count": 4, "feed_forward_length": 128,
            "context_length": 1024, "vocab_size": words,
        }.items()),
        array("tokenizer.ggml.tokens", 8, words, text("a word") * words),
    ]  # fmt: skip
    data = bytes(Gguf(pairs=pairs, tensors=[tensor("token_embd.weight", (64, 32))], data=30_000_000))
    hub.repository("org/big", {"big-F32.gguf": data})
    model = described(hub, "org/big", "llamacpp", "F32")
    assert model.shape.layers == 2
    assert len([path for path, span, _ in hub.seen if span]) == 2
    assert hub.sent() < 6 << 20


def test_a_server_without_ranges_is_cut_off(hub: FakeHub) -> None:
    """A server that answers a range with everything is read to the end of the range only."""
    hub.ranges = False
    hub.repository("org/tiny", {"tiny-Q8_0.gguf": TINY.read_bytes()})
    assert described(hub, "org/tiny", "llamacpp", "Q8_0").shape.layers == 4


def test_a_local_file() -> None:
    """A GGUF on this machine is read in place."""
    with Hub() as reader:
        model = reader.describe(Reference("file", str(TINY)), "llamacpp")
    assert (model.parameters, model.default_quant, model.task) == (3_517_952, "Q8_0", "chat")


def test_a_missing_or_broken_local_file(tmp_path: Path) -> None:
    """A path that is not there and a file that is no GGUF are each one sentence."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with Hub() as reader:
        with pytest.raises(UsageError, match="No such file"):
            reader.describe(Reference("file", str(tmp_path / "none.gguf")), "llamacpp")
        with pytest.raises(BadModelFile):
            reader.describe(Reference("file", str(broken)), "llamacpp")


def test_an_ollama_name(hub: FakeHub) -> None:
    """Ollama's manifest names the file, whose header is read by range."""
    digest = "sha256:" + "ab" * 32
    manifest = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1}]}
    hub.files["/v2/library/tiny-thing/manifests/1b"] = json.dumps(manifest).encode()
    hub.files[f"/v2/library/tiny-thing/blobs/{digest}"] = TINY.read_bytes()
    with Hub(token="hf_secret", registry=hub.url) as reader:
        model = reader.describe(Reference("ollama", "tiny-thing", "1b"), "ollama")
    assert (model.sources.ollama, model.default_quant) == ("tiny-thing:1b", "Q8_0")
    assert not any("hf_secret" in key for _, _, key in hub.seen)


@pytest.mark.parametrize(
    ("status", "headers", "token", "kind", "says", "hint"),
    [
        (401, {}, None, UnknownModel, "no public", "HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, None, HubRefused, "gated", "licence"),
        (403, {}, None, HubRefused, "gated", "licence"),
        (403, {}, "hf_x", HubRefused, "token", "licence"),
        (404, {}, None, UnknownModel, "has no", "spelling"),
        (429, {"Retry-After": "30"}, None, HubBusy, "too often", "30 s"),
        (500, {}, None, HubBusy, "500", "later"),
        (503, {}, None, HubBusy, "503", "flags"),
    ],
)
def test_each_refusal_has_its_own_sentence(
    hub: FakeHub,
    status: int,
    headers: dict[str, str],
    token: str | None,
    kind: type[Exception],
    says: str,
    hint: str,
) -> None:
    """Gated, gone, renamed, rate limited and broken are told apart before money is spent."""
    hub.statuses["/api/models/org/repo"] = (status, headers)
    with pytest.raises(kind, match=says) as caught:
        described(hub, "org/repo", token=token)
    assert hint in getattr(caught.value, "hint", "")
    assert "hf_x" not in str(caught.value)


def test_a_hub_that_is_down() -> None:
    """Nobody at the address is `Unreachable`, with the flags as the way out."""
    with running_hub() as gone:
        url = gone.url
    with Hub(hub=url) as reader, pytest.raises(Unreachable) as caught:
        reader.describe(Reference("hub", "org/repo"), "vllm")
    assert "--parameters" in caught.value.hint


def test_redirects_are_followed_but_keep_the_key(hub: FakeHub) -> None:
    """A redirect to another host is followed without the token; one that leaves https for a far host is not."""
    safetensors_repository(hub)
    with running_hub() as other:
        other.files["/cdn/config.json"] = json.dumps(CONFIG).encode()
        there = other.url.replace("127.0.0.1", "localhost") + "/cdn/config.json"
        hub.statuses[f"/org/repo/resolve/{SHA}/config.json"] = (302, {"Location": there})
        assert described(hub, "org/repo", token="hf_secret").shape.layers == 32
        assert [key for _, _, key in other.seen] == [""]
    assert {key for _, _, key in hub.seen} == {"Bearer hf_secret"}
    hub.statuses[f"/org/repo/resolve/{SHA}/config.json"] = (302, {"Location": "http://169.254.169.254/x"})
    with pytest.raises(Unreachable):
        described(hub, "org/repo")


def test_redirects_in_a_circle_stop(hub: FakeHub) -> None:
    """A hub that redirects to itself is given up."""
    hub.statuses["/api/models/org/repo"] = (302, {"Location": f"{hub.url}/api/models/org/repo"})
    with pytest.raises(HubBusy, match="circles"):
        described(hub, "org/repo")
    assert len(hub.seen) <= 7


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": None},
        {"hidden_size": "4096"},
        {"vocab_size": True},
        {"max_position_embeddings": 2**63},
        {"num_attention_heads": 0},
        {"quantization_config": {"quant_method": "mystery"}},
    ],
    ids=repr,
)
def test_junk_in_a_config_is_asked_about(hub: FakeHub, change: dict[str, Any]) -> None:
    """An absurd or missing figure is an error with a way out, never 0 GiB and never a crash."""
    safetensors_repository(hub, {**CONFIG, **change})
    with pytest.raises(UsageError) as caught:
        described(hub, "org/repo")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sliding_window": 4096}, (0, 0, 0)),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, (512, 8, 0)),
        ({"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}, (128, 16, 0)),
        ({"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8}, (0, 0, 24)),
    ],
)
def test_windows_in_a_config(hub: FakeHub, change: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """Window and linear layers are counted where the config says which they are; a bare window is left out."""
    safetensors_repository(hub, {**CONFIG, **change})
    shape = described(hub, "org/repo").shape
    assert (shape.window, shape.full_layers, shape.cross_layers) == expected


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, "gptq"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}}, "fp8"),
    ],
)
def test_a_quantised_repository_says_how(hub: FakeHub, quantisation: dict[str, Any], dtype: str) -> None:
    """The method in config.json decides which GPUs can run it."""
    safetensors_repository(
        hub, {**CONFIG, "quantization_config": quantisation}, safetensors={"total": 8 * 10**9}
    )
    model = described(hub, "org/repo")
    assert (model.dtype, model.parameters) == (dtype, 8 * 10**9)


@pytest.mark.parametrize(
    ("files", "engine", "says"),
    [
        ({"pytorch_model.bin": b"x", "config.json": b"{}"}, "vllm", "no safetensors"),
        ({"x-Q4_K_M.gguf": b"x"}, "vllm", "GGUF"),
        ({"model.safetensors": b"x"}, "llamacpp", "no GGUF"),
        ({"x-Q2_K.gguf": b"GGUF", "x-Q8_0.gguf": b"GGUF"}, "llamacpp", "no file in Q4_K_M"),
        ({"x-Q4_K_M.gguf": b"<html>"}, "llamacpp", "no GGUF file"),
        ({"config.json": b"[]", "model.safetensors": b"x"}, "vllm", "no JSON object"),
        ({"config.json": b"[" * 100_000, "model.safetensors": b"x"}, "vllm", "not JSON"),
        ({"config.json": b" " * (1 << 21), "model.safetensors": b"x"}, "vllm", "larger than"),
    ],
)
def test_repositories_that_cannot_be_used(
    hub: FakeHub, files: dict[str, bytes], engine: str, says: str
) -> None:
    """Pickles, the wrong format, a missing quantisation, junk and bombs are each refused with a sentence."""
    hub.repository("org/repo", files)
    with pytest.raises(UsageError, match=says):
        described(hub, "org/repo", engine)


@pytest.mark.parametrize("length", [0, 2**63, 100_000_000])
def test_a_lying_safetensors_header(hub: FakeHub, length: int) -> None:
    """A header longer than its file, or than any real one, is refused before it is fetched."""
    data = struct.pack("<Q", length) + b"{}"
    hub.repository("org/repo", {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": data})
    with pytest.raises(BadModelFile):
        described(hub, "org/repo")
    assert hub.sent() <= 16
