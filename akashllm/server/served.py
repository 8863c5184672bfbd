"""A name that can be asked for: what is in memory for it, and what its author wants."""

from __future__ import annotations

from dataclasses import dataclass

from akashllm.server.defaults import NOTHING, Defaults
from akashllm.server.resident import Resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One name and the model it means. Several names may mean one resident, each with its own defaults.

    digest   of the manifest, 64 hexadecimal digits; empty: the model is the deployed one, whose file says it
    """

    name: str
    resident: Resident
    defaults: Defaults = NOTHING
    digest: str = ""
