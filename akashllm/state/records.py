"""One deployment as the record has it, and one event of its life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["deploying", "active", "failed", "closing", "closed"]
"""`active` means that a URL was handed out; whether it answers now is the market's and the service's word.
`failed` still holds its name, and perhaps money: it stays listed until it is closed or deployed again."""

Phase = Literal["before", "after", "failed", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A row of the record. Times are ISO 8601 in UTC.

    reference   what the market was told to call it: finds it again when a reply was lost
    step        the step that comes next, or failed
    dseq        the market's own number, once it has one
    plan        `Plan.as_dict()`
    facts       what the steps found out: the bid, the lease, the last smoke report
    """

    id: int
    name: str
    market: str
    reference: str
    state: State
    step: str
    dseq: str | None
    provider: str | None
    url: str | None
    plan: Mapping[str, Any]
    sdl_path: str | None
    reason: str
    facts: Mapping[str, Any]
    created_at: str
    updated_at: str
    closed_at: str | None

    @property
    def model(self) -> str:
        """The model's name as clients give it."""
        served = dict(self.plan.get("env", ())).get("AKASHLLM_MODEL_NAME")
        return str(served or self.plan.get("model", {}).get("alias", ""))

    @property
    def engine(self) -> str:
        """The engine's name."""
        return str(self.plan.get("engine", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A step that began, ended or failed, or a remark."""

    at: str
    step: str
    phase: Phase
    detail: Mapping[str, Any]
