"""The wheel that goes into an image is the wheel that a release would be."""

from __future__ import annotations

import importlib.metadata
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from akashllm.errors import MissingExtra
from akashllm.images import wheel
from akashllm.images.wheel import pack
from akashllm.version import __version__
from tests.images.conftest import ROOT


def content(data: bytes) -> dict[str, bytes]:
    """Path -> bytes of everything but the record."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_a_checkout_packs_what_the_build_back_end_would(tmp_path: Path) -> None:
    """The files, the entry point and the licence are those of hatchling's wheel, byte for byte."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    official = content(next(tmp_path.glob("*.whl")).read_bytes())
    ours = content(pack().data)

    made_by_tools = {f"akashllm-{__version__}.dist-info/{name}" for name in ("RECORD", "WHEEL", "METADATA")}
    assert set(ours) == set(official)
    assert {name for name in ours if name not in made_by_tools and ours[name] != official[name]} == set()


@pytest.mark.slow
def test_an_installed_package_packs_the_same_wheel_again(tmp_path: Path) -> None:
    """Pip installs the wheel without an index, and what it installed packs into the same bytes."""
    first = pack()
    (tmp_path / first.name).write_bytes(first.data)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(tmp_path / first.name)], check=True, capture_output=True, timeout=100)

    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from akashllm.images.wheel import PACKAGE, pack;"
        "assert str(PACKAGE).startswith(sys.argv[1]), PACKAGE;"
        "sys.stdout.buffer.write(pack().data)"
    )
    again = subprocess.run(
        [sys.executable, "-c", script, str(site)], check=True, capture_output=True, timeout=100, cwd=tmp_path
    )

    assert again.stdout == first.data


def test_the_wheel_holds_what_an_image_needs_and_no_more() -> None:
    """Catalogue, templates and the bundled model are inside; tests, caches and hidden files are not."""
    names = set(content(pack().data))

    assert {
        "akashllm/server/__main__.py",
        "akashllm/catalog/models.toml",
        "akashllm/models/tiny-q8_0.gguf",
    } <= names
    assert "akashllm/_templates/sdl.yaml.j2" in names
    assert not [
        name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pth")) or "/." in name
    ]
    assert all(name.startswith(("akashllm/", f"akashllm-{__version__}.dist-info/")) for name in names)


def test_the_wheel_carries_the_version_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose metadata is older than its code says the code's version."""
    monkeypatch.setattr(wheel, "__version__", "9.8.7")
    made = wheel.pack()

    assert made.name == "akashllm-9.8.7-py3-none-any.whl"
    assert b"\nVersion: 9.8.7\n" in content(made.data)["akashllm-9.8.7.dist-info/METADATA"]


def test_files_that_are_not_installed_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without metadata there is one error that says how to install."""

    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(MissingExtra) as failure:
        pack()

    assert "pip install" in failure.value.hint
