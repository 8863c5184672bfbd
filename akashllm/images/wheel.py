"""The running akashllm as a wheel, so that an image holds exactly the code that built it.

Works the same from a checkout and from an installed package, without a network and without a build back-end:
the package's files and its metadata are all a pure wheel is (PyPA: binary distribution format 1.0).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from akashllm.assets import templates
from akashllm.errors import MissingExtra
from akashllm.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
_EPOCH = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: akashllm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_LEFT_OUT = frozenset({"__pycache__", "_templates"})


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel in memory. The same code gives the same bytes, so an unchanged layer stays cached."""

    name: str
    data: bytes


def pack() -> Wheel:
    """The wheel of this akashllm. Raises `MissingExtra` where akashllm runs without being installed."""
    info = f"akashllm-{__version__}.dist-info"
    files = dict(_package())
    for name, data in _metadata():
        files[f"{info}/{name}"] = data
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    record = "".join(f"{name},{_hash(data)},{len(data)}\n" for name, data in sorted(files.items()))
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # The metadata comes last, as the format asks.
        for name in sorted(files, key=lambda name: (name.startswith(info), name.endswith("RECORD"), name)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return Wheel(f"akashllm-{__version__}-py3-none-any.whl", buffer.getvalue())


def _package() -> Iterator[tuple[str, bytes]]:
    for root, below in ((PACKAGE, "akashllm"), (templates(), "akashllm/_templates")):
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            hidden = any(part.startswith(".") for part in inside.parts)
            skipped = root == PACKAGE and not _LEFT_OUT.isdisjoint(inside.parts)
            if hidden or skipped or path.suffix == ".pyc" or path.is_symlink() or not path.is_file():
                continue
            yield f"{below}/{inside.as_posix()}", path.read_bytes()


def _metadata() -> Iterator[tuple[str, bytes]]:
    """What describes the package: its METADATA, entry points and licences; not who installed it, and how."""
    try:
        distribution = importlib.metadata.distribution("akashllm")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(
            "akashllm runs from files that are not installed, so it cannot be put into an image",
            hint="run: pip install -e . (or scripts/setup)",
        ) from None
    # A checkout's metadata dates from the day it was installed; the version is the code's own.
    text = distribution.read_text("METADATA") or ""
    yield "METADATA", re.sub(r"(?m)^Version: .*$", f"Version: {__version__}", text, count=1).encode()
    if points := distribution.read_text("entry_points.txt"):
        yield "entry_points.txt", points.encode()
    for file in distribution.files or ():
        parts = file.parts
        if len(parts) > 2 and parts[0].endswith(".dist-info") and parts[1] == "licenses":
            newer = PACKAGE.parent.joinpath(*parts[2:])
            here = newer if _checkout() and newer.is_file() else Path(str(file.locate()))
            yield "/".join(parts[1:]), here.read_bytes()


def _checkout() -> bool:
    return (PACKAGE.parent / "pyproject.toml").is_file()


def _hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
