"""Which base images a build starts from, where they are others than the Dockerfile's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from akashllm.errors import UsageError
from akashllm.plan import EngineName
from akashllm.render.bases import CUDA, DEBIAN

BUILD = "BUILD_BASE"
RUN = "RUN_BASE"


class Holder(Protocol):
    """What tells whether it has an image: a Docker engine."""

    def has(self, name: str) -> bool:
        """Whether the image is there, by name and tag."""
        ...


def base_arguments(
    engine: EngineName, holder: Holder, given: Mapping[str, str], *, cpu: bool, cuda: int | None, pull: bool
) -> dict[str, str]:
    """Build arguments that name the bases, beside those that were given.

    The Dockerfile names Debian's by digest. Its tag counts instead where the engine holds other bytes under it
    (somebody put them there), or where `pull` asks for what it is today. `cuda` is the major version of CUDA
    for llama.cpp. Raises `UsageError` for one that cannot be had.
    """
    if cuda is not None:
        if engine != "llamacpp" or cpu:
            raise UsageError(
                "--cuda chooses the base of the llama.cpp image for GPUs",
                hint="leave it out, or use --engine llamacpp without --cpu",
            )
        if cuda not in CUDA:
            raise UsageError(
                f"there is no base image with CUDA {cuda}", hint=f"use {' or '.join(map(str, sorted(CUDA)))}"
            )
        build, run = CUDA[cuda]
        return {name: base.pinned for name, base in ((BUILD, build), (RUN, run)) if name not in given}
    names = {("llamacpp", True): (BUILD, RUN), ("ollama", True): (RUN,), ("ollama", False): (RUN,)}
    wanted = [name for name in names.get((engine, cpu), ()) if name not in given]
    if wanted and (pull or (holder.has(DEBIAN.image) and not holder.has(DEBIAN.pinned))):
        return dict.fromkeys(wanted, DEBIAN.image)
    return {}
