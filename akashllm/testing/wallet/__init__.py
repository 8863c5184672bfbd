"""Akash's command line as a stand-in: its grammar, its JSON, its faults, over the testing market's world."""

from __future__ import annotations

from akashllm.testing.wallet.command import FakeCommand, Trouble
from akashllm.testing.wallet.script import installed

__all__ = ["FakeCommand", "Trouble", "installed"]
