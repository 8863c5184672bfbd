"""One real vLLM for everything that needs one, and a scripted child for what a real one would not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def interpreter() -> Path | None:
    """The Python that has vLLM: AKASHLLM_VLLM_PYTHON, or what `scripts/vllm-cpu` has completed."""
    if os.environ.get("AKASHLLM_SKIP_VLLM"):
        return None
    named = os.environ.get("AKASHLLM_VLLM_PYTHON")
    if named:
        return Path(named)
    made = ROOT / ".cache/vllm"
    return made / "bin/python" if (made / "complete").exists() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real vLLM are left out where there is none, and the reason says how to get one."""
    if interpreter() is not None:
        return
    skip = pytest.mark.skip(reason="vLLM is not here: scripts/vllm-cpu installs it (about 3.5 GB)")
    for item in items:
        if item.get_closest_marker("vllm") is not None:
            item.add_marker(skip)
