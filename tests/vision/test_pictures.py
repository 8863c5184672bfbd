"""The arithmetic of prompts with images, without an engine."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import pytest

from akashllm.server.engines.llamacpp.pictures import Picture, Span, position, spans, virtual, whole
from akashllm.server.engines.llamacpp.prefix import Resident, usable
from akashllm.server.guard.media import image_size
from tests.vision.drawing import jpeg, noise, png


def picture(digest: bytes, count: int, positions: int) -> Picture:
    """A picture of so many tokens that take so many positions."""
    return Picture(
        digest,
        np.zeros((count, 4), np.float32),
        positions=positions,
        places=lambda first: np.full((1, count), first, np.int32),
        causal=True,
    )


def test_ids_stand_for_one_image() -> None:
    """They are negative, always the same for a digest, and others for another."""
    assert virtual(b"a", 50) == virtual(b"a", 50)
    assert virtual(b"a", 50) != virtual(b"b", 50)
    assert max(virtual(b"a", 1000)) < 0


def test_places_become_positions() -> None:
    """After an image in a grid, positions run behind places by what it saves."""
    image = picture(b"a", 12, 4)
    tokens = [1, 2, *image.ids, 3, *image.ids, 4]
    found = spans(tokens, {image.ids[0]: image})
    assert [(span.start, span.end) for span in found] == [(2, 14), (15, 27)]
    assert [position(found, place) for place in (0, 2, 14, 15, 27, 28)] == [0, 2, 6, 7, 11, 12]


def test_an_image_is_shared_whole_or_not_at_all() -> None:
    """A common beginning that ends in an image ends before it."""
    image = picture(b"a", 12, 12)
    found = (Span(2, image),)
    assert [whole(found, length) for length in (1, 2, 3, 13, 14, 15)] == [1, 2, 2, 2, 14, 15]
    resident = Resident(0)
    resident.tokens = array("i", [1, 2, *image.ids[:6]])
    resident.pictures = found
    assert usable(resident, array("i", [1, 2, *image.ids, 3]), whole=False) == 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 48), (300, 7)])
def test_sizes_are_read_from_headers(width: int, height: int) -> None:
    """PNG and JPEG say how large they are before anything is decoded."""
    assert image_size(png(noise(1, width, height))) == (width, height)
    if width % 2 == 0:
        assert image_size(jpeg(noise(1, width, height))) == (width, height)


def test_webp_has_three_headers() -> None:
    """Lossy, lossless and extended WebP each have their own place for the size."""
    riff = b"RIFF\x50\0\0\0WEBP"
    lossy = riff + b"VP8 " + bytes(10) + struct.pack("<HH", 64, 48) + bytes(9)
    lossless = riff + b"VP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 63 | 47 << 14) + bytes(9)
    extended = riff + b"VP8X" + bytes(8) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    for data in (lossy, lossless, extended):
        assert image_size(data) == (64, 48)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0" * 5, b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_headers_that_are_none(data: bytes) -> None:
    """No size, no error, no endless loop."""
    assert image_size(data) is None
