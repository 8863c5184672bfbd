"""GGUF files made by hand, right or wrong, a few hundred bytes long."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


def text(value: str | bytes) -> bytes:
    """A length and that many bytes."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    """A key, a value type, and the value as it stands in the file."""
    return text(key) + struct.pack("<I", kind) + payload


def u32(key: str, value: int) -> bytes:
    """A key with a 32-bit whole number."""
    return pair(key, 4, struct.pack("<I", value))


def string(key: str, value: str | bytes) -> bytes:
    """A key with a text."""
    return pair(key, 8, text(value))


def array(key: str, kind: int, count: int, payload: bytes) -> bytes:
    """A key with an array that claims `count` elements."""
    return pair(key, 9, struct.pack("<IQ", kind, count) + payload)


def tensor(
    name: str | bytes,
    shape: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    dimensions: int | None = None,
) -> bytes:
    """A tensor's description, claiming `dimensions` where they are given."""
    count = len(shape) if dimensions is None else dimensions
    extents = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", count) + extents + struct.pack("<IQ", kind, offset)


@dataclass
class Gguf:
    """The parts of a file; `bytes(...)` puts them together, claiming what it is told to claim."""

    pairs: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    claimed_tensors: int | None = None
    claimed_pairs: int | None = None
    data: int = 4096

    def __bytes__(self) -> bytes:
        tensors = len(self.tensors) if self.claimed_tensors is None else self.claimed_tensors
        pairs = len(self.pairs) if self.claimed_pairs is None else self.claimed_pairs
        header = self.magic + self.version + struct.pack("<QQ", tensors % 2**64, pairs % 2**64)
        body = header + b"".join(self.pairs) + b"".join(self.tensors)
        return body + bytes(-len(body) % 32) + bytes(self.data)
