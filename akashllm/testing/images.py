"""Images that were never pushed, for tests of what comes after a push."""

from __future__ import annotations

from typing import get_args

from akashllm.digests import Sha256
from akashllm.images import Pushed, local_name, remember, remote_name
from akashllm.plan import EngineName
from akashllm.state import Home

NOWHERE = "127.0.0.1:9/me/akashllm"
"""A registry that nobody runs: the discard port of loopback."""


def pretend_pushed(home: Home, repository: str = NOWHERE) -> None:
    """Remember every image of this version as pushed from here, as `akashllm build --push` does."""
    home.prepare()
    for engine in get_args(EngineName):
        for cpu in (False, True):
            local = local_name(engine, cpu=cpu)
            target = remote_name(repository, engine, cpu=cpu, tag=None)
            pushed = Pushed(target, Sha256.of(str(local).encode()), seconds=0.0)
            remember(home, str(local), pushed, "linux/amd64")
