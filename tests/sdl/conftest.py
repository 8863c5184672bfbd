"""The official SDL validator, installed on demand into a cache and kept running for the session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "official"

Judge = Callable[[str], dict[str, Any]]


def _install() -> Path:
    """The directory with the pinned packages; npm installs them once."""
    root = Path(os.environ.get("AKASHLLM_CACHE") or Path.home() / ".cache" / "akashllm") / "official-sdl"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_into(root)
    return root


def _install_into(root: Path) -> None:
    stamp = root / "installed.json"
    wanted = (HERE / "package.json").read_text()
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.copy(HERE / "package.json", root)
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"npm could not install the official SDL validator: {done.stderr[-500:]}")
        stamp.write_text(wanted)
    shutil.copy(HERE / "official.mjs", root)


@pytest.fixture(scope="session")
def official() -> Iterator[Judge]:
    """Ask the official validator: `{"ok": bool, "errors": [...], "manifest": str, "hash": str}`."""
    if os.environ.get("AKASHLLM_SKIP_NODE"):
        pytest.skip("AKASHLLM_SKIP_NODE is set: nothing was compared with the official SDL validator")
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found: install Node 20, or set AKASHLLM_SKIP_NODE=1 to skip")
    root = _install()
    with subprocess.Popen(
        ["node", "official.mjs"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def judge(text: str) -> dict[str, Any]:
            stdin.write(json.dumps(text) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
            return answer

        yield judge
        stdin.close()
        process.wait(timeout=10)
