"""Write a llama-shaped GGUF with random weights: a model of any size with no download, for measuring speed.

    python benchmarks/random_gguf.py OUT.gguf [--layers 12 --hidden 768 --ffn 2048 --heads 12 --kv-heads 4
                                               --vocab 32000 --context 4096]

The tokenizer is the bundled model's, padded with filler tokens to `--vocab`. Needs the `gguf` package.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize

from akashllm.models import TINY

Q8 = GGMLQuantizationType.Q8_0


def main() -> None:
    """Parse the shape and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (
        ("layers", 12),
        ("hidden", 768),
        ("ffn", 2048),
        ("heads", 12),
        ("kv-heads", 4),
        ("vocab", 32000),
        ("context", 4096),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = parser.parse_args()
    parameters = write(shape.out, shape)
    print(f"{shape.out}: {parameters / 1e6:.1f}M parameters, {shape.out.stat().st_size / 1e6:.0f} MB")


def write(out: Path, shape: argparse.Namespace) -> int:
    """Write the file; returns the number of parameters."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(str(out), "llama")
    head = shape.hidden // shape.heads
    writer.add_name("random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    tokenizer(writer, shape.vocab)
    total = 0

    def tensor(name: str, rows: int, columns: int = 0) -> None:
        nonlocal total
        total += rows * max(1, columns)
        if not columns:
            writer.add_tensor(name, np.ones(rows, dtype=np.float32))
            return
        weights = random.standard_normal((rows, columns), dtype=np.float32) * 0.02
        writer.add_tensor(name, quantize(weights, Q8), raw_dtype=Q8)

    tensor("token_embd.weight", shape.vocab, shape.hidden)
    for i in range(shape.layers):
        tensor(f"blk.{i}.attn_norm.weight", shape.hidden)
        tensor(f"blk.{i}.attn_q.weight", shape.hidden, shape.hidden)
        tensor(f"blk.{i}.attn_k.weight", shape.kv_heads * head, shape.hidden)
        tensor(f"blk.{i}.attn_v.weight", shape.kv_heads * head, shape.hidden)
        tensor(f"blk.{i}.attn_output.weight", shape.hidden, shape.hidden)
        tensor(f"blk.{i}.ffn_norm.weight", shape.hidden)
        tensor(f"blk.{i}.ffn_gate.weight", shape.ffn, shape.hidden)
        tensor(f"blk.{i}.ffn_up.weight", shape.ffn, shape.hidden)
        tensor(f"blk.{i}.ffn_down.weight", shape.hidden, shape.ffn)
    tensor("output_norm.weight", shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


def tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """Copy the bundled model's tokenizer and pad it."""
    padding: dict[str, Callable[[int], Any]] = {"tokens": "w{}".format, "token_type": lambda _: 1}
    for field in GGUFReader(str(TINY)).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        value = field.contents()
        name = field.name.rsplit(".", 1)[-1]
        if name in padding:
            value = [*value, *(padding[name](i) for i in range(len(value), vocab))]
        kind = field.types[0]
        writer.add_key_value(field.name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)


if __name__ == "__main__":
    main()
