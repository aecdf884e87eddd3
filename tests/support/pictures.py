"""Small pictures for tests."""

from __future__ import annotations

import base64
import io

from PIL import Image


def picture(kind: str = "PNG", width: int = 20, height: int = 12, color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """Return a file of one color, in a format of Pillow."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
