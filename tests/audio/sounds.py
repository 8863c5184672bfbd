"""Recordings made of nothing: WAV from numbers, other formats through PyAV."""

from __future__ import annotations

import io
import struct
import wave
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

RATE = 16_000


def tone(seconds: float, *, pitch: float = 220.0) -> bytes:
    """A WAV file with something like a voice: a tone whose loudness and pitch waver."""
    at = np.arange(int(seconds * RATE)) / RATE
    sound = np.sin(2 * np.pi * (pitch * at + 3 * np.sin(2 * np.pi * 2 * at))) * (0.5 + 0.4 * np.sin(9 * at))
    return wav((sound * 16_000).astype("<i2").tobytes())


def wav(samples: bytes) -> bytes:
    """Samples of 16 bits, mono, as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return out.getvalue()


def boasting(seconds: int, samples: bytes) -> bytes:
    """A WAV file whose header promises more than there is."""
    promised = seconds * RATE * 2
    head = b"RIFF" + struct.pack("<I", promised + 36) + b"WAVEfmt "
    return (
        head
        + struct.pack("<IHHIIHH", 16, 1, 1, RATE, RATE * 2, 2, 16)
        + b"data"
        + struct.pack("<I", promised)
        + samples
    )


def encoded(container: str, codec: str, seconds: float, *, silent: bool = False, rate: int = RATE) -> bytes:
    """The same tone, or silence, in another format."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = cast("AudioStream", file.add_stream(codec, rate=rate, layout="mono"))
        block = 1 << 14
        for start in range(0, int(seconds * rate), block):
            at = np.arange(start, min(start + block, int(seconds * rate))) / rate
            sound = np.zeros(len(at)) if silent else np.sin(2 * np.pi * 220 * at) * 16_000
            frame = AudioFrame.from_ndarray(sound.astype(np.int16).reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()
