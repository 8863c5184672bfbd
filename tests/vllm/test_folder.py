"""What Hugging Face files say of their model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from akashllm.errors import BadModelFile
from akashllm.server.models.folder import describe
from tests.vllm import files


def write(folder: Path, **more: Any) -> Path:
    """A folder with a configuration."""
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8} | more
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_bundled_model(tmp_path: Path) -> None:
    """Family, figures, type, template and what it can do come from its files."""
    info = describe(files.make(tmp_path).folder, "tiny:latest")
    assert (info.format, info.family, info.parameters, info.quantization) == (
        "safetensors",
        "llama",
        3_517_952,
        "F16",
    )
    assert (info.train_context, info.embedding_length, info.vocab_size) == (2048, 256, 1957)
    assert info.capabilities == ("completion", "tools", "thinking")
    assert "<|im_start|>" in info.chat_template
    assert info.metadata["llama.attention.head_count_kv"] == 2
    assert info.size > 7_000_000


@pytest.mark.parametrize(
    ("more", "quantization"),
    [
        ({"dtype": "bfloat16"}, "BF16"),
        ({"torch_dtype": "float16"}, "F16"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ-4bit"),
        ({}, "unknown"),
    ],
)
def test_quantisation(tmp_path: Path, more: dict[str, Any], quantization: str) -> None:
    """The method and its bits, or the type of the weights."""
    assert describe(write(tmp_path, **more), "m").quantization == quantization


def test_figures_of_a_model_with_images(tmp_path: Path) -> None:
    """Where the text model's figures stand in a part of their own, they are found there."""
    folder = write(tmp_path, text_config={"max_position_embeddings": 777, "hidden_size": 16})
    info = describe(folder, "m")
    assert (info.context, info.embedding_length) == (777, 16)


@pytest.mark.parametrize("more", [{"architectures": ["BertModel"]}, {"architectures": ["Qwen3Model"]}])
def test_models_for_embeddings(tmp_path: Path, more: dict[str, Any]) -> None:
    """A model without a head for text embeds."""
    assert describe(write(tmp_path, **more), "m").capabilities == ("embedding",)


def test_templates_in_a_list(tmp_path: Path) -> None:
    """The template for tools is kept beside the other; a file of its own wins over the configuration's."""
    folder = write(tmp_path)
    both = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": both, "bos_token": {"content": "<s>"}})
    )
    info = describe(folder, "m")
    assert (info.chat_template, info.metadata["tokenizer.chat_template.tool_use"], info.bos) == (
        "A",
        "B",
        "<s>",
    )
    (folder / "chat_template.jinja").write_text("C")
    assert describe(folder, "m").chat_template == "C"


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a": {}}'],
)
def test_a_broken_weights_file_has_no_parameters(tmp_path: Path, body: bytes) -> None:
    """A header that lies about its length, or is none, costs nothing and counts nothing."""
    folder = write(tmp_path)
    (folder / "model.safetensors").write_bytes(body)
    assert describe(folder, "m").parameters == 0


@pytest.mark.parametrize("body", ["", "[]", "{", "nonsense"])
def test_a_broken_configuration_is_named(tmp_path: Path, body: str) -> None:
    """The file is in the message."""
    (tmp_path / "config.json").write_text(body)
    with pytest.raises(BadModelFile, match=r"config\.json"):
        describe(tmp_path, "m")
