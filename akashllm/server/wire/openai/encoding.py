"""Frames of a stream of server-sent events."""

from __future__ import annotations

import hashlib

from akashllm.server.wire.encoding import encode
from akashllm.version import __version__

__all__ = ["DONE", "FINGERPRINT", "encode", "event"]

DONE = b"data: [DONE]\n\n"
FINGERPRINT = f"fp_{hashlib.sha256(__version__.encode()).hexdigest()[:10]}"
"""`system_fingerprint`: a string, never null, that changes with what answers (OpenAI's openapi.yaml)."""


def event(*parts: bytes) -> bytes:
    """One server-sent event of parts, the first of which may already start with `data: `."""
    return b"".join((*parts, b"\n\n"))
