"""Small pictures for tests."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image


def picture(kind: str = "PNG", width: int = 20, height: int = 12, color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """Return a file of one color, in a format of Pillow."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png_with_two_headers(width: int, height: int) -> bytes:
    """Return a small file of a black picture whose first header says that it has one pixel."""
    lines = zlib.compress(bytes((width // 8 + 1) * height))
    headers = (_png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)) for size in ((1, 1), (width, height)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(headers) + _png_chunk(b"IDAT", lines) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
