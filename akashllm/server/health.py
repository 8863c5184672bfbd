"""What the engine last said of itself: the only thing `/health` and waiting requests go by."""

from __future__ import annotations

import time
from typing import Any

from akashllm.server.engine import Engine, State

_REASON = 300
"""Characters of a reason that are shown to anyone."""


class Health:
    """Follows one engine. `ready` is the engine's word that a real token came out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reason = ""
        self.percent: float | None = None
        self.since = time.monotonic()
        self._asked = False
        self._refused = False
        engine.watch(self._changed)

    def _changed(self, state: State, text: str, percent: float | None) -> None:
        self.reason = "" if state == "ready" else text
        self.percent = percent if state in {"starting", "loading"} else None
        self.since = time.monotonic()
        self._refused = False

    def refused(self, reason: str) -> None:
        """The engine was not even asked to load: there is no memory for it."""
        self.reason, self.percent, self.since = reason, None, time.monotonic()
        self._refused = True

    def asked(self) -> None:
        """A load was tried, or is not wanted yet: an engine without a model is unloaded, not starting."""
        self._asked = True

    @property
    def state(self) -> State:
        """The engine's state; `failed` without memory for it, `starting` before its first load is through."""
        if self._refused:
            return "failed"
        state = self._engine.state
        return "starting" if state == "unloaded" and not self._asked else state

    @property
    def ready(self) -> bool:
        """Whether a request would be answered: a model that was unloaded is loaded again by the next one."""
        return self.state in {"ready", "unloaded"}

    def public(self, model: str) -> dict[str, Any]:
        """What anyone may see: no paths of the machine, no log."""
        shown: dict[str, Any] = {"status": self.state, "model": model}
        if self.percent is not None:
            shown["percent"] = round(self.percent, 1)
        if self.reason:
            shown["reason"] = " ".join(self.reason.split())[:_REASON]
        fault = getattr(self._engine, "fault", "")
        if self.state == "failed" and fault:
            shown["fault"] = fault
        return shown

    def private(self, model: str) -> dict[str, Any]:
        """What the holder of a key sees on top: the engine, its figures, the last lines it wrote."""
        stats = self._engine.stats()
        return self.public(model) | {
            "reason": self.reason,
            "engine": self._engine.name,
            "seconds_in_state": round(time.monotonic() - self.since, 1),
            "restarts": stats.restarts,
            "log": list(getattr(self._engine, "log_lines", ())),
        }
