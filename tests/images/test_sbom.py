"""The bill of materials of an image."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from akashllm.sbom import Part, document, python_parts

MOMENT = datetime(2026, 11, 21, tzinfo=UTC)


def test_each_part_is_described_once() -> None:
    """Every package stands there once with its purl, and is described; the same parts, the same document."""
    parts = [Part("b", "2", "pkg:pypi/b@2"), Part("a", "1", "pkg:pypi/a@1"), Part("b", "2", "pkg:pypi/b@2")]
    made = document("an image", parts, created=MOMENT)
    assert made == document("an image", reversed(parts), created=MOMENT)
    assert (made["spdxVersion"], made["creationInfo"]["created"]) == ("SPDX-2.3", "2026-11-21T00:00:00Z")
    assert [(one["name"], one["externalRefs"][0]["referenceLocator"]) for one in made["packages"]] == [
        ("a", "pkg:pypi/a@1"),
        ("b", "pkg:pypi/b@2"),
    ]
    described = {one["relatedSpdxElement"] for one in made["relationships"]}
    assert described == {one["SPDXID"] for one in made["packages"]}


def test_packages_of_another_folder_count(tmp_path: Path) -> None:
    """A base's own Python packages are named too, as indexes spell them; a folder need not be there."""
    info = tmp_path / "Some_Thing-1.0+cu12.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0+cu12\n")
    found = {part.name: part for part in python_parts([str(tmp_path), str(tmp_path / "none")])}
    assert found["some-thing"] == Part("some-thing", "1.0+cu12", "pkg:pypi/some-thing@1.0%2Bcu12")
    assert "akashllm" in found


def test_a_build_writes_it(tmp_path: Path) -> None:
    """Run as a program it tells of the system's packages too, at the time that the build names."""
    dpkg = tmp_path / "dpkg-query"
    dpkg.write_text("#!/bin/sh\nprintf 'tini\\t0.19.0-1+b1\\tamd64\\n'\n")
    dpkg.chmod(dpkg.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "akashllm.sbom", "akashllm vllm"], env=env, capture_output=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["name"], told["creationInfo"]["created"]) == ("akashllm vllm", "1970-01-01T00:00:00Z")
    purls = {one["externalRefs"][0]["referenceLocator"] for one in told["packages"]}
    assert any(purl.startswith("pkg:deb/") and "/tini@0.19.0-1%2Bb1?arch=amd64" in purl for purl in purls)
