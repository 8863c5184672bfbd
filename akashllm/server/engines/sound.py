"""The sound of a recording as samples, read by a process that is held to limits (`whisper.decode`)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akashllm.errors import BadRequest, ServiceError

RATE: Final = 16_000
"""Samples a second, as Whisper wants them."""

UNREADABLE: Final = 65
"""The status of a decoding process that found no sound."""

_DECODER = "akashllm.server.engines.whisper.decode"
_WIDTH: Final = 2
_PATIENCE: Final = 20.0
"""Seconds a decoding process has, plus one for every `_FASTER` seconds of sound it may give."""
_FASTER: Final = 30.0
_CHUNK: Final = 1 << 18


def samples(path: str, form: str, longest: float, *, python: str = "") -> NDArray[np.float32]:
    """The sound of a file, mono, -1 to 1. Raises `BadRequest` for none, or more than `longest` seconds.

    `python` is an interpreter that has PyAV; empty: this one.
    """
    command = [python or sys.executable, "-m", _DECODER, form, str(os.getpid())]
    limit = int(longest * RATE) * _WIDTH
    data = bytearray()
    with (
        Path(path).open("rb") as sound,
        subprocess.Popen(command, stdin=sound, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
    ):
        assert process.stdout is not None
        clock = threading.Timer(_PATIENCE + longest / _FASTER, process.kill)
        clock.start()
        try:
            while len(data) <= limit and (chunk := process.stdout.read(_CHUNK)):
                data += chunk
        finally:
            clock.cancel()
            if len(data) > limit:
                process.kill()
        code = process.wait()
    if len(data) > limit:
        raise BadRequest(
            f"the sound lasts longer than {longest:g} s, the limit of this service",
            hint="send it in parts",
            param="file",
            code="audio_too_long",
        )
    if code == UNREADABLE or (code == 0 and not data):
        raise BadRequest(
            "the file has no sound that can be decoded",
            hint="send a whole flac, mp3, mp4, m4a, ogg, wav or webm file",
            param="file",
            code="invalid_audio",
        )
    if code < 0:
        raise BadRequest("the file breaks the decoder: it is damaged", param="file", code="invalid_audio")
    if code:
        raise ServiceError("the sound could not be decoded on this machine")
    count = len(data) // _WIDTH
    return np.frombuffer(data, np.int16, count).astype(np.float32) / 32768.0
