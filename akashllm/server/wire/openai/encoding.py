"""JSON bytes that survive every line-based reader."""

from __future__ import annotations

import msgspec

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """JSON in one line, also for readers that split at every Unicode line break.

    JSON lets U+0085, U+2028 and U+2029 stand in strings as they are, and popular HTTP clients (httpx's
    `iter_lines`, which is Python's `str.splitlines`) end a line there.
    """
    return _escape(_encoder.encode(value))


def text_of(text: str) -> bytes:
    """`encode` for a string, where the three rare characters cost one scan each."""
    return _escape(_encoder.encode(text))


def _escape(data: bytes) -> bytes:
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data


def event(*parts: bytes) -> bytes:
    """One server-sent event of parts, the first of which may already start with `data: `."""
    return b"".join((*parts, b"\n\n"))
