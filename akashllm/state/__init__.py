"""What this user has deployed: a directory of mode 0700, a SQLite record in it, and secrets as 0600 files."""

from __future__ import annotations

from akashllm.state.home import Home
from akashllm.state.records import Deployment, Event, Phase, State
from akashllm.state.store import Store

__all__ = ["Deployment", "Event", "Home", "Phase", "State", "Store"]
