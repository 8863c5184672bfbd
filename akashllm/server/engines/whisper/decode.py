"""Sound of any accepted format becomes samples, in a process that may be killed.

FFmpeg's demuxers and decoders (through PyAV) are a large attack surface, so they run apart: a crash is one bad
file, memory has a limit, and the samples are counted while they are read. The demuxer is named, never guessed:
FFmpeg's own probing also recognises play lists, which open other files and addresses.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import Final

import av
from av.audio.resampler import AudioResampler

from akashllm.server.engines.lifeline import die_with_parent
from akashllm.server.engines.sound import RATE, UNREADABLE

_MEMORY: Final = 1 << 31
"""Bytes of address space of a decoding process."""

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
        sys.exit(UNREADABLE)
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
            sys.exit(UNREADABLE)


if __name__ == "__main__":
    main()
