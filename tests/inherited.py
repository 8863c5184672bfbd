"""The environment for a service that a test starts in a process of its own."""

from __future__ import annotations

import os


def without_ours(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no other of ours.

    What tells the tests what to skip or where to keep things begins with AKASHLLM_ too: a service would take it
    for a setting that is misspelt, and say so before anything else.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("AKASHLLM_")} | settings
