"""The bundled model: 3.5 million parameters, ours, so that a fresh machine has something real to run."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).with_name("tiny-q8_0.gguf")
"""GGUF, Q8_0, 3.8 MB: a chat model with tools, thinking and fill-in-the-middle, 2,048 tokens of context."""
