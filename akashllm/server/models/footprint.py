"""What a GGUF model will take in memory, told from its header before it is loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from akashllm.errors import BadModelFile
from akashllm.gguf import Header, read_header
from akashllm.server.models.details import shards

_CELL_BYTES = 2
"""The key-value cache is kept in float16."""
_ROUND = 256


class Footprint(NamedTuple):
    """Bytes of the files, bytes a token of key-value cache takes, and tokens the model was trained for."""

    weights: int
    per_token: int
    trained: int

    def bytes(self, cells: int) -> int:
        """Bytes with a cache of so many tokens."""
        return self.weights + -(-cells // _ROUND) * _ROUND * self.per_token

    def cells(self, context: int, slots: int, budget: int) -> int:
        """Tokens of cache: a context a slot; fewer within `budget` bytes (0: no limit), but one context."""
        wanted = context * slots
        if not budget or not self.per_token or self.bytes(wanted) <= budget:
            return wanted
        return max(context, (budget - self.weights) // self.per_token // _ROUND * _ROUND)


def footprint(path: Path, extras: Iterable[Path] = ()) -> Footprint:
    """Of a model file, all its shards, and the adapters and projectors beside it.

    What cannot be read counts as nothing: loading it will say why.
    """
    try:
        found = path.stat()
        whole = _read(path, found.st_mtime_ns, found.st_size)
        return whole._replace(weights=whole.weights + sum(extra.stat().st_size for extra in extras))
    except (BadModelFile, OSError):
        return Footprint(0, 0, 0)


@functools.lru_cache(maxsize=256)
def _read(path: Path, _modified: int, size: int) -> Footprint:
    header = read_header(path)
    family = header.text("general.architecture")
    weights = sum(file.stat().st_size for file in shards(path)) or size
    return Footprint(weights, _per_token(header, family), header.integer(f"{family}.context_length"))


def _per_token(header: Header, family: str) -> int:
    """As llama.cpp sizes it: keys and values of every layer, for its key-value heads."""
    layers = header.integer(f"{family}.block_count")
    heads = max(1, header.integer(f"{family}.attention.head_count"))
    kv_heads = header.integer(f"{family}.attention.head_count_kv") or heads
    width = header.integer(f"{family}.embedding_length") // heads
    key = header.integer(f"{family}.attention.key_length") or width
    value = header.integer(f"{family}.attention.value_length") or width
    return layers * kv_heads * (key + value) * _CELL_BYTES
