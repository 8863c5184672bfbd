"""Frames of a stream of server-sent events."""

from __future__ import annotations

from akashllm.server.wire.encoding import encode

__all__ = ["DONE", "encode", "event"]

DONE = b"data: [DONE]\n\n"


def event(*parts: bytes) -> bytes:
    """One server-sent event of parts, the first of which may already start with `data: `."""
    return b"".join((*parts, b"\n\n"))
