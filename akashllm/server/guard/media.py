"""What a file is by its first bytes: what a client claims is not evidence."""

from __future__ import annotations

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
