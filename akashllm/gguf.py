"""Read the header of a GGUF file: key-value pairs and tensor descriptions, never the weights.

The format is ggml's `docs/gguf.md`; the rules that make a file invalid are those of `ggml/src/gguf.cpp`. The
file may be hostile, so everything it says about itself is checked against the file's real length and against
the limits below before memory is spent on it: reading any file takes less than 64 MiB and, on a slow core,
less than a second. Arrays (a tokenizer's vocabulary, for one) are stepped over and read only when asked for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from akashllm.errors import BadModelFile

MAX_KEYS = 16_384
MAX_TENSORS = 65_536
MAX_HEADER = 64 << 20
"""Bytes before the tensor data. The largest vocabularies in use need about 20 MiB."""
MAX_ELEMENTS = 2_000_000
"""Strings in all arrays together; the largest vocabularies in use have about 800,000 with their merges."""
MAX_TEXT = 4 << 20
"""Bytes of all string values outside arrays together: chat templates and licences are tens of KiB."""
MAX_ELEMENT = 64 << 10
"""Bytes of one string in an array."""
MAX_KEY_LENGTH = 1024
MAX_TENSOR_NAME = 63
MAX_DIMENSIONS = 4

_PIECE = 512
_INT64_MAX = (1 << 63) - 1
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""ggml type id -> name, elements in a block, bytes of a block (`ggml.h`, `ggml-common.h`)."""


class Array(NamedTuple):
    """An array that was stepped over: its element type, how many, and where its first element starts."""

    kind: int
    length: int
    offset: int


Scalar = str | int | float | bool
Value = Scalar | Array


class Tensor(NamedTuple):
    """One tensor. `shape` is as the file has it, innermost dimension first; `offset` is into the data."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. Sizes and offsets are bytes from the start of the file."""

    path: Path
    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_size: int

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The metadata without its arrays."""
        return {key: value for key, value in self.metadata.items() if not isinstance(value, Array)}

    def text(self, key: str) -> str:
        """A string value; empty if the key is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def integer(self, key: str) -> int:
        """A whole number; for an array (per-layer counts) its largest element. 0 if missing or negative."""
        value = self.metadata.get(key)
        if isinstance(value, Array):
            numbers = (n for part in self.array(key) for n in part if isinstance(n, int))
            return max((n for n in numbers if not isinstance(n, bool)), default=0)
        return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0

    def array(self, key: str) -> Iterator[list[Scalar]]:
        """The elements of an array in pieces of a few hundred, read from the file now.

        Raises `BadModelFile` if there are more than `MAX_ELEMENTS`, and `KeyError` if it is no array.
        """
        value = self.metadata[key]
        if not isinstance(value, Array):
            raise KeyError(key)
        if value.length > MAX_ELEMENTS:
            raise BadModelFile(f"{self.path.name}: the array {key!r} has {value.length} elements")
        with self.path.open("rb") as file:
            reader = _Reader(file, self.path.name)
            reader.seek(value.offset)
            for start in range(0, value.length, _PIECE):
                yield reader.elements(value.kind, min(_PIECE, value.length - start))


class _Reader:
    """Reads little-endian values, refusing anything beyond the end of the file or the header's limit."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._size = os.fstat(file.fileno()).st_size
        self._limit = min(self._size, MAX_HEADER)
        self._buffer = b""
        self._base = 0
        self._at = 0
        self._text_left = MAX_TEXT
        self._strings_left = MAX_ELEMENTS

    @property
    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._base + self._at

    def seek(self, offset: int) -> None:
        self._file.seek(offset)
        self._buffer, self._base, self._at = b"", offset, 0

    def fail(self, why: str) -> NoReturn:
        raise BadModelFile(
            f"{self._name} is not a GGUF file that can be read: {why}",
            hint="fetch the file again, or choose another one",
        )

    def need(self, count: int) -> int:
        """Have `count` bytes in the buffer and step over them; the answer is where they start in it."""
        if self._at + count > len(self._buffer):
            start = self.tell()
            if start + count > self._limit:
                self._overrun()
            self._file.seek(start)
            self._buffer, self._base, self._at = self._file.read(max(count, 1 << 16)), start, 0
            if len(self._buffer) < count:
                self._overrun()
        start = self._at
        self._at += count
        return start

    def _overrun(self) -> NoReturn:
        if self._limit < self._size:
            self.fail(f"its header is longer than {MAX_HEADER >> 20} MiB")
        self.fail("it ends in the middle of its header")

    def skip(self, count: int) -> None:
        """Step over bytes without reading them."""
        if self.tell() + count > self._limit:
            self._overrun()
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self.seek(self.tell() + count)

    def raw(self, count: int) -> bytes:
        start = self.need(count)
        return self._buffer[start : start + count]

    def number(self, kind: int) -> int | float | bool:
        layout = _SCALARS[kind]
        start = self.need(layout.size)
        value: int | float = layout.unpack_from(self._buffer, start)[0]
        return bool(value) if kind == _BOOL else value

    def u32(self) -> int:
        start = self.need(4)
        return int(_U32.unpack_from(self._buffer, start)[0])

    def u64(self) -> int:
        start = self.need(8)
        return int(_U64.unpack_from(self._buffer, start)[0])

    def name(self, limit: int, what: str) -> str:
        length = self.u64()
        if not 0 < length <= limit:
            self.fail(f"the name of {what} has {length} bytes (1 to {limit} are possible)")
        try:
            return self.raw(length).decode()
        except UnicodeDecodeError:
            self.fail(f"the name of {what} is not UTF-8")

    def value(self, key: str) -> Value:
        kind = self.u32()
        if kind == _STRING:
            length = self.u64()
            self._text_left -= length
            if self._text_left < 0:
                self.fail(f"the text of {key!r} is too long")
            return self.raw(length).decode(errors="replace")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            self.fail(f"{key!r} has a value of the unknown type {kind}")
        return self.number(kind)

    def _array(self, key: str) -> Array:
        kind, count = self.u32(), self.u64()
        found = Array(kind, count, self.tell())
        if kind == _STRING:
            self._strings_left -= count
            if self._strings_left < 0:
                self.fail(f"the array {key!r} has too many strings")
            self._skip_strings(count)
        elif kind in _SCALARS:
            self.skip(count * _SCALARS[kind].size)
        else:
            self.fail(f"{key!r} is an array of the impossible type {kind}")
        return found

    def _skip_strings(self, count: int) -> None:
        """Step over `count` strings: the one loop whose length a file decides, so it is kept tight."""
        unpack = _U64.unpack_from
        while count:
            buffer, at, end = self._buffer, self._at, len(self._buffer) - 8
            while count and at <= end:
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            behind = at - len(buffer)
            if behind <= 0:
                self._at = at
                if count:
                    self._refill()
            else:
                self._at = len(buffer)
                self.skip(behind)

    def _refill(self) -> None:
        self.need(8)
        self._at -= 8

    def elements(self, kind: int, count: int) -> list[Scalar]:
        """The next `count` elements of an array."""
        if kind == _STRING:
            return [self._element() for _ in range(count)]
        layout = _SCALARS[kind]
        data = self.raw(count * layout.size)
        values = [item[0] for item in layout.iter_unpack(data)]
        return [bool(value) for value in values] if kind == _BOOL else values

    def _element(self) -> str:
        length = self.u64()
        if length > MAX_ELEMENT:
            self.fail(f"an array holds a text of {length} bytes")
        return self.raw(length).decode(errors="replace")


def read_header(path: Path) -> Header:
    """The header of the GGUF file at `path`. Raises `BadModelFile`, or `OSError` if it cannot be opened."""
    with path.open("rb") as file:
        reader = _Reader(file, path.name)
        if reader.size < 24:
            reader.fail("it is too short to have a header")
        if reader.raw(4) != b"GGUF":
            reader.fail("it does not begin with GGUF")
        version, tensor_count, key_count = _preamble(reader)
        metadata = _metadata(reader, key_count)
        alignment = _alignment(reader, metadata)
        tensors = _tensors(reader, tensor_count, alignment)
        data_offset = -(-reader.tell() // alignment) * alignment
        _check_extents(reader, tensors, data_offset)
        return Header(path, version, metadata, tensors, data_offset, reader.size)


def _preamble(reader: _Reader) -> tuple[int, int, int]:
    version = reader.u32()
    if version and not version & 0xFFFF:
        reader.fail("it is big-endian, and this machine is not")
    if version not in {2, 3}:
        reader.fail(f"it is of version {version}, and 2 and 3 can be read")
    tensor_count, key_count = reader.u64(), reader.u64()
    if tensor_count > MAX_TENSORS:
        reader.fail(f"it claims {tensor_count} tensors (at most {MAX_TENSORS} are read)")
    if key_count > MAX_KEYS:
        reader.fail(f"it claims {key_count} keys (at most {MAX_KEYS} are read)")
    return version, tensor_count, key_count


def _metadata(reader: _Reader, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(count):
        key = reader.name(MAX_KEY_LENGTH, f"key {index}")
        if key in metadata:
            reader.fail(f"the key {key!r} occurs twice")
        metadata[key] = reader.value(key)
    return metadata


def _alignment(reader: _Reader, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or value & (value - 1):
        reader.fail("its alignment is not a power of two")
    if value > MAX_HEADER:
        reader.fail(f"its alignment of {value} bytes is absurd")
    return value


def _tensors(reader: _Reader, count: int, alignment: int) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    seen: set[str] = set()
    for index in range(count):
        name = reader.name(MAX_TENSOR_NAME, f"tensor {index}")
        if name in seen:
            reader.fail(f"the tensor {name!r} occurs twice")
        seen.add(name)
        tensors.append(_tensor(reader, name, alignment))
    return tuple(tensors)


def _tensor(reader: _Reader, name: str, alignment: int) -> Tensor:
    dimensions = reader.u32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        reader.fail(f"the tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.u64() for _ in range(dimensions))
    elements = 1
    for extent in shape:
        elements *= extent
        if extent > _INT64_MAX or elements > _INT64_MAX:
            reader.fail(f"the tensor {name!r} is impossibly large")
    kind, offset = reader.u32(), reader.u64()
    if kind not in TENSOR_TYPES:
        reader.fail(f"the tensor {name!r} has the unknown type {kind}")
    type_name, block, block_size = TENSOR_TYPES[kind]
    if shape[0] % block:
        reader.fail(f"a row of the tensor {name!r} is not a whole number of {type_name} blocks")
    if offset % alignment:
        reader.fail(f"the tensor {name!r} does not begin at a multiple of the alignment")
    return Tensor(name, type_name, shape, offset, elements // block * block_size)


def _check_extents(reader: _Reader, tensors: tuple[Tensor, ...], data_offset: int) -> None:
    """Every tensor lies inside the file and none overlaps another."""
    available = reader.size - data_offset
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            reader.fail(f"the tensor {tensor.name!r} overlaps another one")
        end = tensor.offset + tensor.size
        if end > available:
            reader.fail(f"the tensor {tensor.name!r} ends {end - available} bytes after the end of the file")
