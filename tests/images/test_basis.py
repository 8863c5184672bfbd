"""Which bases a build starts from."""

from __future__ import annotations

import re

import pytest

from akashllm.errors import UsageError
from akashllm.images import base_arguments
from akashllm.plan import EngineName
from akashllm.render import render_image
from akashllm.render.bases import CUDA, DEBIAN


class Holding:
    """An engine that has these images."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def has(self, name: str) -> bool:
        """Whether it is one of them."""
        return name in self.names


STARTS = pytest.mark.parametrize(
    ("engine", "cpu", "names"),
    [
        ("llamacpp", True, {"BUILD_BASE", "RUN_BASE"}),
        ("ollama", True, {"RUN_BASE"}),
        ("ollama", False, {"RUN_BASE"}),
        ("llamacpp", False, set()),
        ("vllm", False, set()),
    ],
)
"""Each image, and its arguments that name Debian."""


@STARTS
@pytest.mark.parametrize("holder", [Holding(), Holding(DEBIAN.image, DEBIAN.pinned)])
def test_debian_comes_by_digest(engine: EngineName, cpu: bool, names: set[str], holder: Holding) -> None:
    """The Dockerfile's digest stays, also where the engine holds these bytes under their tag."""
    assert base_arguments(engine, holder, {}, cpu=cpu, cuda=None, pull=False) == {}
    text = render_image(engine, cpu=cpu)["Dockerfile"]
    assert set(re.findall(rf"^ARG (\w+)={re.escape(DEBIAN.pinned)}$", text, re.MULTILINE)) == names


@STARTS
@pytest.mark.parametrize(("holder", "pull"), [(Holding(DEBIAN.image), False), (Holding(), True)])
def test_the_tag_counts_when_somebody_chose_it(
    engine: EngineName, cpu: bool, names: set[str], holder: Holding, pull: bool
) -> None:
    """Other bytes that lie here under the tag are taken, and with --pull the newest."""
    given = base_arguments(engine, holder, {}, cpu=cpu, cuda=None, pull=pull)
    assert given == dict.fromkeys(names, DEBIAN.image)


def test_a_base_given_by_hand_is_not_replaced() -> None:
    """What --build-arg names stays."""
    by_hand = {"BUILD_BASE": "a:1", "RUN_BASE": "b:1"}
    assert base_arguments("llamacpp", Holding(), by_hand, cpu=True, cuda=None, pull=True) == {}


def test_cuda_can_be_chosen() -> None:
    """--cuda 13 builds on CUDA 13's two images, and an argument given by hand wins."""
    build, run = CUDA[13]
    asked = base_arguments("llamacpp", Holding(), {}, cpu=False, cuda=13, pull=False)
    assert asked == {"BUILD_BASE": build.pinned, "RUN_BASE": run.pinned}
    own = base_arguments("llamacpp", Holding(), {"RUN_BASE": "x:1"}, cpu=False, cuda=13, pull=False)
    assert own == {"BUILD_BASE": build.pinned}


@pytest.mark.parametrize(
    ("engine", "cpu", "cuda"), [("vllm", False, 13), ("llamacpp", True, 12), ("llamacpp", False, 11)]
)
def test_an_impossible_cuda_is_refused(engine: EngineName, cpu: bool, cuda: int) -> None:
    """CUDA is only asked of an image that has it, in a version there is a base for."""
    with pytest.raises(UsageError):
        base_arguments(engine, Holding(), {}, cpu=cpu, cuda=cuda, pull=False)
