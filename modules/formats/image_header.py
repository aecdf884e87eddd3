"""The header of a picture: its format and size, read without decoding it.

Sources: the specifications of PNG (IHDR), JPEG (ITU T.81, SOF segments) and WebP (RFC 9649).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZED_SEGMENTS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of frame; the others are tables
_SEGMENTS_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MAX_SEGMENTS = 2000

MAX_IMAGE_PIXELS = 25_000_000
"""Size of the largest picture that is accepted. A damaged file may turn out to be larger than its header says."""


@dataclass(frozen=True)
class ImageHeader:
    """`format` is "png", "jpeg" or "webp"; the size is in pixels."""

    format: str
    width: int
    height: int


def read_image_header(data: bytes) -> ImageHeader | None:
    """Return the header of a PNG, JPEG or WebP file; None for other formats, and if the header is damaged."""
    reader = next((read for start, read in _READERS if data.startswith(start)), None)
    try:
        header = reader(data) if reader else None
    except (struct.error, IndexError):  # it ends too early
        return None
    return header if header and header.width > 0 and header.height > 0 else None


def _png(data: bytes) -> ImageHeader | None:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    return ImageHeader("png", width, height) if kind == b"IHDR" else None


def _jpeg(data: bytes) -> ImageHeader | None:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if data[position] != 0xFF:
            return None
        while data[position] == 0xFF:  # a marker may be preceded by any number of these
            position += 1
        marker = data[position]
        position += 1
        if marker in _SIZED_SEGMENTS:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return ImageHeader("jpeg", width, height)
        if marker not in _SEGMENTS_WITHOUT_LENGTH:
            position += struct.unpack_from(">H", data, position)[0]
    return None


def _webp(data: bytes) -> ImageHeader | None:
    form, kind = struct.unpack_from("<4s4s", data, 8)
    if form != b"WEBP":
        return None
    if kind == b"VP8 ":
        sync, width, height = struct.unpack_from("<3sHH", data, 23)
        return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF) if sync == b"\x9d\x01\x2a" else None
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if signature == 0x2F else None
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[begin : begin + 3], "little") + 1 for begin in (24, 27))
        return ImageHeader("webp", width, height) if len(data) >= 30 else None
    return None


_READERS = ((_PNG_SIGNATURE, _png), (b"\xff\xd8\xff", _jpeg), (b"RIFF", _webp))
