"""What a file is by its first bytes: what a client claims is not evidence."""

from __future__ import annotations

import struct

_RIFF = 12
_BRAND = 8
_MP3_SYNC = 0xE0
_LAYERS = 0x06


def sound_format(head: bytes) -> str | None:
    """wav, mp3, flac, ogg, mp4 (also m4a), webm or aac; None for everything else. A dozen bytes are enough."""
    if len(head) >= _RIFF and head[:4] in {b"RIFF", b"RF64"} and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "webm"
    if len(head) >= _BRAND and head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(b"ID3"):
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & _MP3_SYNC == _MP3_SYNC:
        # A frame of MPEG audio: layer 0 is AAC in ADTS, which looks alike.
        return "mp3" if head[1] & _LAYERS else "aac"
    return None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the header of a PNG, JPEG or WebP image claims; None if it has no such header.

    A decoder makes room for as many pixels as the header says, however few bytes follow.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """The frame header, after whatever segments are before it (ITU T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


def _webp(data: bytes) -> tuple[int, int] | None:
    """The three kinds of the first chunk (RFC 9649)."""
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None
