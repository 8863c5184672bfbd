"""From what a person asks for to a plan, and from a plan to sentences."""

from __future__ import annotations

from akashllm.catalog.reference import Reference, parse_reference
from akashllm.planning.make import make_plan
from akashllm.planning.sentences import explain
from akashllm.planning.wanted import Lookup

__all__ = ["Lookup", "Reference", "explain", "make_plan", "parse_reference"]
