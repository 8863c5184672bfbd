"""JSON bytes that survive every line-based reader."""

from __future__ import annotations

import msgspec

_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """JSON in one line, also for readers that split at every Unicode line break.

    JSON lets U+0085, U+2028 and U+2029 stand in strings as they are, and popular HTTP clients (httpx's
    `iter_lines`, which is Python's `str.splitlines`) end a line there.
    """
    data = _encoder.encode(value)
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data
