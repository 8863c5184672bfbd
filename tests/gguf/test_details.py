"""What a model's file says it is and can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm.gguf import read_header
from akashllm.models import TINY
from akashllm.server.models.details import capabilities, describe, parameter_size, quantization_level, shards
from tests.gguf.build import Gguf, string, tensor, u32


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, ""),
        (999, "999"),
        (260_000, "260K"),
        (3_517_952, "3.52M"),
        (70_000_000, "70M"),
        (7_000_000_000, "7B"),
        (8_030_261_248, "8.0B"),
        (671_026_419_200, "671.0B"),
    ],
)
def test_parameter_counts_are_written_as_ollama_writes_them(count: int, shown: str) -> None:
    """One decimal for billions, two for millions, none where the number is whole."""
    assert parameter_size(count) == shown


def test_the_bundled_model_is_described() -> None:
    """All that the file of the bundled model tells is in its `ModelInfo`."""
    info = describe(TINY, "tiny:latest")

    assert (info.name, info.format, info.family, info.quantization) == ("tiny:latest", "gguf", "llama", "Q8_0")
    assert (info.parameters, info.train_context, info.embedding_length) == (3_517_952, 2048, 256)
    assert (info.vocab_size, info.size) == (1957, TINY.stat().st_size)
    assert info.capabilities == ("completion", "tools", "insert", "thinking")
    assert info.eos == "<|im_end|>"
    assert "im_start" in info.chat_template
    assert "tokenizer.ggml.tokens" not in info.metadata


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([string("general.architecture", "llama")], ("completion",)),
        ([string("general.architecture", "bert"), u32("bert.pooling_type", 1)], ("embedding",)),
        ([string("tokenizer.chat_template", "{% if tools %}{% endif %}")], ("completion", "tools")),
        ([string("tokenizer.chat_template", "<think>{{ x }}</think>")], ("completion", "thinking")),
        ([u32("tokenizer.ggml.fim_pre_token_id", 1)], ("completion",)),
        (
            [u32(f"tokenizer.ggml.{name}_token_id", 1) for name in ("prefix", "suffix", "middle")],
            ("completion", "insert"),
        ),
    ],
)
def test_capabilities_follow_from_the_file(
    pairs: list[bytes], expected: tuple[str, ...], tmp_path: Path
) -> None:
    """Pooling means embedding; the template shows tools and thinking, the vocabulary fill-in-the-middle."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(Gguf(pairs=pairs)))

    assert capabilities(read_header(path)) == expected


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([u32("general.file_type", 0)], "F32"), ([u32("general.file_type", 15)], "Q4_K_M"), ([], "unknown")],
)
def test_the_quantisation_has_a_name(pairs: list[bytes], expected: str, tmp_path: Path) -> None:
    """The file type's name, and unknown only where the file says nothing."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(Gguf(pairs=pairs)))

    assert quantization_level(read_header(path)) == expected


def test_a_split_model_is_counted_whole(tmp_path: Path) -> None:
    """Size and parameters are those of all the shards that are there."""
    for number in (1, 2):
        content = bytes(Gguf(pairs=[string("general.architecture", "llama")], tensors=[tensor("x", (64,))]))
        (tmp_path / f"big-0000{number}-of-00002.gguf").write_bytes(content)
    first = tmp_path / "big-00001-of-00002.gguf"
    info = describe(first, "big:latest")

    assert info.parameters == 128
    assert info.size == 2 * first.stat().st_size
    assert [path.name for path in shards(first)] == ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    assert shards(tmp_path / "one.gguf") == (tmp_path / "one.gguf",)
