"""Models are quantised by llama.cpp, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ollama
import pytest

from akashllm.digests import Sha256
from akashllm.gguf import read_header
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.models.quantize import CHILD
from akashllm.server.models.store import ModelStore
from tests.modelfile.test_create import refused

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def float16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in F16."""
    path = tmp_path_factory.mktemp("float16") / "tiny.gguf"
    command = [sys.executable, "-m", CHILD, str(TINY), str(path), "1", str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def test_a_model_is_quantised(client: ollama.Client, store: ModelStore, float16: Path) -> None:
    """`quantize` says how far it is and makes a smaller model, whose file and configuration say what it is."""
    digest = client.create_blob(float16)
    steps = list(client.create("small", files={"tiny.gguf": digest}, quantize="q4_K_M", stream=True))

    told = [step for step in steps if step.status == "quantizing F16 model to Q4_K_M"]
    assert told[-1].completed == told[-1].total == float16.stat().st_size
    assert steps[-1].status == "success"
    made = store.get(ModelName.parse("small"))
    assert made.config["file_type"] == "Q4_K_M"
    assert made.weights.stat().st_size < float16.stat().st_size / 2
    assert {tensor.type for tensor in read_header(made.weights).tensors} >= {"Q4_K", "Q6_K"}
    assert str(Sha256.of_file(made.weights)) == made.layers[0][1]
    assert not [path for path in store.layout.blobs.iterdir() if path.name.startswith(".")]


def test_a_broken_model_leaves_nothing(
    client: ollama.Client, service: str, store: ModelStore, float16: Path, tmp_path: Path
) -> None:
    """A file that llama.cpp cannot quantise ends in its words, not in a model."""
    data = float16.read_bytes().replace(b"llama", b"lambs", 1)
    (tmp_path / "broken.gguf").write_bytes(data)
    digest = client.create_blob(tmp_path / "broken.gguf")

    status, words = refused(service, model="m", files={"m.gguf": digest}, quantize="Q8_0")

    assert status == 503
    assert words.startswith("the model could not be quantised: ")
    assert store.list() == []
    assert not [path for path in store.layout.blobs.iterdir() if path.name.startswith(".")]
