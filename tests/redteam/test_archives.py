"""No archive is ever unpacked: members that climb, link or swell have nowhere to go."""

from __future__ import annotations

import ast
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import akashllm
from akashllm.digests import Sha256
from akashllm.errors import BadRequest
from akashllm.server.models.ingredients import gather
from akashllm.server.models.store import ModelStore

UNPACKING = {"extract", "extractall", "unpack_archive", "extractfile"}
WRITERS = {"images/context.py", "images/wheel.py"}
"""Modules that make an archive: of a build's context, and of this package."""


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of the package, with its module."""
    root = Path(akashllm.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            yield str(path.relative_to(root)), node


def test_no_code_unpacks() -> None:
    """Nothing in the package extracts members, and only what makes archives knows their formats."""
    found = set()
    for module, node in nodes():
        if isinstance(node, ast.Attribute):
            assert node.attr not in UNPACKING, module
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if {name.partition(".")[0] for name in names} & {"tarfile", "zipfile"}:
            found.add(module)
    assert found == WRITERS


def zipped(name: str) -> bytes:
    """A zip with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"GGUF")
    return buffer.getvalue()


def tarred(name: str, kind: bytes, target: str = "") -> bytes:
    """A tar with one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        zipped("../../x.gguf"),
        zipped("/etc/x.gguf"),
        tarred("../x", tarfile.REGTYPE),
        tarred("x", tarfile.SYMTYPE, "/etc/passwd"),
        tarred("x", tarfile.LNKTYPE, "../../../etc/passwd"),
        tarred("x", tarfile.CHRTYPE),
    ],
)
def test_an_uploaded_archive_is_no_model(tmp_path: Path, data: bytes) -> None:
    """It is kept as the bytes it is, and refused as a model under any name."""
    store = ModelStore(tmp_path / "models")
    digest = Sha256.parse(store.put(data, "x").digest)
    before = sorted(tmp_path.rglob("*"))
    for name in ("model.gguf", "model.zip", "model.tar"):
        with pytest.raises(BadRequest, match="not in GGUF format"):
            gather(store, name, digest)
    assert sorted(tmp_path.rglob("*")) == before
