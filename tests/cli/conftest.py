"""A home of its own for each test, the command line here or in a process of its own, no strays after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from akashllm.cli.app import run
from akashllm.market.local import LocalMarket
from akashllm.state import Home

CANARY = "ak-canary-7f3a9c1e5b2d8064"
"""A key that must turn up nowhere."""


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Stdout as the one JSON document it must be."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The document's error."""
        found = self.document["error"]
        assert isinstance(found, dict)
        return found


Run = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Where everything is recorded; whatever still runs in it is closed at the end."""
    for name in list(os.environ):
        if name.startswith("AKASHLLM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    # Wide enough that help texts are not cut.
    monkeypatch.setenv("COLUMNS", "200")
    found = Home.find()
    yield found
    market = LocalMarket(found.local)
    for held in market.holdings():
        market.close(held.dseq)


def caller(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def here(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, with a home of its own."""
    return caller(capsys)


@pytest.fixture
def there(home: Home, tmp_path: Path) -> Run:
    """Run a command in a process of its own, without a terminal."""

    def call(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "akashllm", *arguments],
            env={**os.environ, **(env or {})},
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call
