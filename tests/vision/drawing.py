"""Images made of numbers: PNG by hand, JPEG through PyAV."""

from __future__ import annotations

import io
import struct
import zlib

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def noise(seed: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Pixels that no other seed gives: large patches, so that little of it is lost in scaling."""
    random = np.random.default_rng(seed)
    patches = random.choice(np.array([0, 255], np.uint8), (4, 4, 3))
    lines, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    pixels: NDArray[np.uint8] = patches[lines][:, columns] ^ random.integers(
        0, 16, (height, width, 3), np.uint8
    )
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels of 8 bits, RGB, as a PNG file."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    return png_with(width, height, zlib.compress(lines))


def png_with(width: int, height: int, data: bytes) -> bytes:
    """A PNG file that claims a size, whatever is in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a JPEG file."""
    out = io.BytesIO()
    with av.open(out, "w", format="mjpeg") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.height, stream.width, _ = pixels.shape
        stream.pix_fmt = "yuvj420p"
        for packet in stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")):
            file.mux(packet)
        file.mux(stream.encode(None))
    return out.getvalue()
