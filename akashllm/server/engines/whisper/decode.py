"""Sound of any accepted format becomes samples, in a process that may be killed.

FFmpeg's demuxers and decoders (through PyAV) are a large attack surface, so they run apart: a crash is one bad
file, memory has a limit, and the samples are counted while they are read. The demuxer is named, never guessed:
FFmpeg's own probing also recognises play lists, which open other files and addresses.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from akashllm.errors import BadRequest, ServiceError
from akashllm.server.engines.lifeline import die_with_parent

RATE: Final = 16_000
"""Samples a second, as Whisper wants them."""

_WIDTH: Final = 2
_MEMORY: Final = 1 << 31
"""Bytes of address space of a decoding process."""
_PATIENCE: Final = 20.0
"""Seconds a decoding process has, plus one for every `_FASTER` seconds of sound it may give."""
_FASTER: Final = 30.0
_CHUNK: Final = 1 << 18

DEMUXERS: Final = {
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "ogg": "ogg",
    "mp4": "mov",
    "webm": "matroska",
    "aac": "aac",
}
"""FFmpeg's name of the demuxer for each format that is accepted."""


def samples(path: str, form: str, longest: float) -> NDArray[np.float32]:
    """The sound of a file, mono, -1 to 1. Raises `BadRequest` for none, or more than `longest` seconds."""
    command = [sys.executable, "-m", "akashllm.server.engines.whisper.decode", form, str(os.getpid())]
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
    if code == _UNREADABLE or (code == 0 and not data):
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


_UNREADABLE: Final = 65


def main() -> None:
    """`python -m akashllm.server.engines.whisper.decode FORMAT PARENT_PID`: a file in, samples out."""
    form, parent = sys.argv[1], int(sys.argv[2])
    die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        _decode(form)
    except (av.error.FFmpegError, av.error.InvalidDataError, IndexError, MemoryError, ValueError):
        sys.exit(_UNREADABLE)
    except BrokenPipeError:
        os._exit(0)


def _decode(form: str) -> None:
    out = sys.stdout.buffer
    with av.open(sys.stdin.buffer, "r", format=DEMUXERS[form], metadata_errors="ignore") as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
        good = bad = 0
        for packet in container.demux(stream):
            frames = []
            # A damaged packet in the middle is a click; a file of nothing else is no sound.
            with contextlib.suppress(av.error.InvalidDataError):
                frames = list(packet.decode())
                good += len(frames)
                bad -= 1
            bad += 1
            for frame in frames:
                frame.pts = None
                for piece in resampler.resample(frame):
                    out.write(piece.to_ndarray().tobytes())
        if good:
            for piece in resampler.resample(None):
                out.write(piece.to_ndarray().tobytes())
        out.flush()
        if bad > good:
            sys.exit(_UNREADABLE)


if __name__ == "__main__":
    main()
