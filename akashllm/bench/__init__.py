"""Load a URL with streams and measure what its users would feel."""

from __future__ import annotations

from akashllm.bench.load import Sample, Summary, load, summarise

__all__ = ["Sample", "Summary", "load", "summarise"]
