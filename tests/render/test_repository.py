"""What the repository keeps of our output."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm import sdl
from akashllm.render import drift, repository_files
from tests.sdl.conftest import Judge

ROOT = Path(__file__).parents[2]
SDLS = {name: text for name, text in repository_files().items() if name.startswith("sdl/")}


def test_images_and_examples_are_as_rendered() -> None:
    """`images/` and `sdl/` are what scripts/render writes: run it and commit the result."""
    assert drift(ROOT, repository_files()) == ""


@pytest.mark.parametrize("name", SDLS)
def test_each_example_is_accepted(name: str, official: Judge) -> None:
    """Both validators accept each example, no secret stands in it, and the hashes agree."""
    text = SDLS[name]
    assert {finding.rule for finding in sdl.validate(text)} <= {"image-digest"}
    assert official(text)["hash"] == sdl.manifest_hash(sdl.load(text))
    assert "AKASHLLM_API_KEY" in sdl.placeholders(text)


def test_the_examples_cover_what_people_deploy() -> None:
    """Three engines, several GPUs, a model of embeddings, one without a GPU."""
    names = " ".join(SDLS)
    for part in ("llamacpp-llama3.", "vllm-llama3.", "ollama-llama3.", "70b", "embed", "cpu"):
        assert part in names
    assert "units: 2\n          attributes" in SDLS["sdl/vllm-llama3-70b.yaml"]
