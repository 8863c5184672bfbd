"""The GGUF header reader, on the bundled model and on files made to hurt."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akashllm.errors import BadModelFile
from akashllm.gguf import MAX_ELEMENTS, MAX_HEADER, MAX_TENSORS, Array, read_header
from akashllm.models import TINY
from tests.gguf.build import Gguf, array, pair, string, tensor, text, u32

VALID = Gguf(
    pairs=[
        string("general.architecture", "llama"),
        u32("llama.context_length", 2048),
        pair("f", 6, struct.pack("<f", 0.5)),
        pair("t", 7, b"\x01"),
        pair("q", 11, struct.pack("<q", -5)),
        array("tokens", 8, 3, text("a") + text("") + text("ccc")),
        array("heads", 4, 2, struct.pack("<II", 4, 8)),
    ],
    tensors=[tensor("a", (32, 2), 0, 0), tensor("b", (64,), 8, 256)],
)

HOSTILE = {
    "nothing at all": b"",
    "eight bytes": b"GGUF\x03\x00\x00\x00",
    "another magic": bytes(Gguf(magic=b"GGML")),
    "version 0": bytes(Gguf(version=struct.pack("<I", 0))),
    "version 1": bytes(Gguf(version=struct.pack("<I", 1))),
    "a version to come": bytes(Gguf(version=struct.pack("<I", 4))),
    "the other byte order": bytes(Gguf(version=struct.pack(">I", 3))),
    "minus one tensors": bytes(Gguf(claimed_tensors=-1)),
    "minus one keys": bytes(Gguf(claimed_pairs=-1)),
    "more tensors than are read": bytes(Gguf(claimed_tensors=MAX_TENSORS + 1)),
    "more keys than there are": bytes(Gguf(claimed_pairs=3, data=0)),
    "key length minus one": bytes(Gguf(pairs=[b"\xff" * 8], claimed_pairs=1)),
    "key length 2**63": bytes(Gguf(pairs=[struct.pack("<Q", 1 << 63)], claimed_pairs=1)),
    "an empty key": bytes(Gguf(pairs=[u32("", 1)])),
    "a key that is not UTF-8": bytes(Gguf(pairs=[pair(b"\xff\xfe", 4, bytes(4))])),
    "a key twice": bytes(Gguf(pairs=[u32("a", 1), u32("a", 2)])),
    "an unknown value type": bytes(Gguf(pairs=[pair("a", 13, bytes(8))])),
    "value type minus one": bytes(Gguf(pairs=[pair("a", 0xFFFFFFFF, bytes(8))])),
    "a text longer than the file": bytes(Gguf(pairs=[pair("a", 8, struct.pack("<Q", 1 << 40))])),
    "a text beyond the limit": bytes(Gguf(pairs=[pair("a", 8, struct.pack("<Q", 5 << 20))], data=6 << 20)),
    "an array of arrays": bytes(Gguf(pairs=[array("a", 9, 1, array("a", 9, 1, b""))])),
    "an array longer than the file": bytes(Gguf(pairs=[array("a", 4, 1 << 40, b"")])),
    "an array with an overflowing size": bytes(Gguf(pairs=[array("a", 10, 1 << 61, b"")])),
    "an array of too many strings": bytes(Gguf(pairs=[array("a", 8, MAX_ELEMENTS + 1, b"")])),
    "an array whose strings run out": bytes(Gguf(pairs=[array("a", 8, 3, text("a"))], data=0)),
    "an array with a string of 2**63 bytes": bytes(Gguf(pairs=[array("a", 8, 2, struct.pack("<Q", 1 << 63))])),
    "alignment 0": bytes(Gguf(pairs=[u32("general.alignment", 0)])),
    "alignment 3": bytes(Gguf(pairs=[u32("general.alignment", 3)])),
    "alignment of 2 GiB": bytes(Gguf(pairs=[u32("general.alignment", 1 << 31)])),
    "alignment in words": bytes(Gguf(pairs=[string("general.alignment", "32")])),
    "alignment true": bytes(Gguf(pairs=[pair("general.alignment", 7, b"\x01")])),
    "a tensor without a name": bytes(Gguf(tensors=[tensor("")])),
    "a tensor name of 64 bytes": bytes(Gguf(tensors=[tensor("x" * 64)])),
    "no dimensions": bytes(Gguf(tensors=[tensor("x", (), dimensions=0)])),
    "five dimensions": bytes(Gguf(tensors=[tensor("x", (1, 1, 1, 1, 1))])),
    "2**31 dimensions": bytes(Gguf(tensors=[tensor("x", (1,), dimensions=1 << 31)])),
    "a product beyond 64 bits": bytes(Gguf(tensors=[tensor("x", (1 << 40, 1 << 40))])),
    "a negative extent": bytes(Gguf(tensors=[tensor("x", ((1 << 64) - 1,))])),
    "an unknown tensor type": bytes(Gguf(tensors=[tensor("x", kind=99)])),
    "half a block in a row": bytes(Gguf(tensors=[tensor("x", (33,), kind=8)])),
    "an offset past the end": bytes(Gguf(tensors=[tensor("x", offset=1 << 40)])),
    "an offset between alignments": bytes(Gguf(tensors=[tensor("x", offset=1)])),
    "less data than described": bytes(Gguf(tensors=[tensor("x", (1 << 20,))])),
    "a tensor twice": bytes(Gguf(tensors=[tensor("x"), tensor("x", offset=128)])),
    "two tensors in one place": bytes(Gguf(tensors=[tensor("x"), tensor("y")])),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_malformed_header_is_refused_with_a_reason(what: str, tmp_path: Path) -> None:
    """Each way to lie in a header is `BadModelFile` with a sentence that names the file and the fault."""
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[what])

    with pytest.raises(BadModelFile, match=r"hostile.gguf is not a GGUF file that can be read: ."):
        read_header(path)


@pytest.mark.parametrize(
    "content",
    [
        bytes(Gguf(pairs=[array("a", 8, MAX_ELEMENTS, text("") * MAX_ELEMENTS)])),
        bytes(
            Gguf(
                tensors=[tensor(f"{n:063}", (1, 1, 1, 1), 24, 32 * n) for n in range(20_000)], data=32 * 20_000
            )
        ),
        bytes(Gguf(pairs=[array("a", 0, MAX_HEADER, bytes(1024))], data=2048)),
        bytes(Gguf(pairs=[string("a", b"\xf0\x9f\x98\x80" * (1 << 20))])),
    ],
    ids=["strings", "tensors", "numbers", "text"],
)
def test_a_large_header_costs_little_memory(content: bytes, tmp_path: Path) -> None:
    """The largest header that is read, or refused, takes less than 64 MiB."""
    path = tmp_path / "large.gguf"
    path.write_bytes(content)
    del content
    tracemalloc.start()
    try:
        try:
            read_header(path)
        except BadModelFile:
            assert path.stat().st_size < 4096
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 64 << 20


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    """Scalars come as Python values, arrays as a place to read them from."""
    path = tmp_path / "valid.gguf"
    path.write_bytes(bytes(VALID))
    header = read_header(path)

    assert header.scalars == {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "f": 0.5,
        "t": True,
        "q": -5,
    }
    assert isinstance(header.metadata["tokens"], Array)
    assert list(header.array("tokens")) == [["a", "", "ccc"]]
    assert header.integer("heads") == 8
    assert header.integer("q") == header.integer("t") == header.integer("nothing") == 0
    assert header.text("f") == ""
    assert [(t.name, t.type, t.shape, t.size) for t in header.tensors] == [
        ("a", "F32", (32, 2), 256),
        ("b", "Q8_0", (64,), 68),
    ]
    assert header.parameters == 128


def test_the_bundled_model_is_read() -> None:
    """The file that ships says what its makers say of it."""
    header = read_header(TINY)

    assert header.text("general.architecture") == "llama"
    assert header.parameters == 3_517_952
    assert header.file_size == TINY.stat().st_size
    assert header.data_offset + header.tensors[-1].offset + header.tensors[-1].size <= header.file_size
    tokens = [token for piece in header.array("tokenizer.ggml.tokens") for token in piece]
    assert len(tokens) == header.integer("llama.vocab_size")
    assert "<|im_end|>" in tokens


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.integers(0, 2**16),
)
def test_damage_is_survived(tmp_path: Path, edits: list[tuple[int, bytes]], cut: int) -> None:
    """A valid file with bytes changed and its end cut off is read or refused, never anything else."""
    content = bytearray(bytes(VALID))
    for position, data in edits:
        start = position % 500
        content[start : start + len(data)] = data
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[: max(len(content) - cut % 4400, 0)])
    try:
        header = read_header(path)
        for key, value in header.metadata.items():
            if isinstance(value, Array):
                assert sum(map(len, header.array(key))) == value.length
    except BadModelFile:
        return
    assert all(t.offset + t.size <= header.file_size for t in header.tensors)
