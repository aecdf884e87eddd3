"""Pictures as models get them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from modules.core.worker_errors import ImageUnreadable
from modules.engines.pictures import decode_picture
from tests.support.pictures import picture


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_is_transparent_becomes_white(subtests: pytest.Subtests) -> None:
    clear = Image.new("RGBA", (2, 1), (200, 30, 30, 255))
    clear.putpixel((1, 0), (200, 30, 30, 0))
    named = Image.new("P", (2, 1), 0)
    named.putpalette([200, 30, 30, 0, 0, 0])
    named.putpixel((1, 0), 1)
    for name, data in (("alpha", file_of(clear)), ("palette", file_of(named, transparency=1))):
        with subtests.test(name):
            decoded = decode_picture(data)
            assert decoded.mode == "RGB"
            assert [decoded.getpixel((column, 0)) for column in (0, 1)] == [(200, 30, 30), (255, 255, 255)]


def test_a_picture_is_turned_as_its_camera_was() -> None:
    wide = Image.new("RGB", (2, 1), (0, 0, 0))
    facts = Image.Exif()
    facts[0x0112] = 6  # turned by 90 degrees
    assert decode_picture(file_of(wide, "JPEG", exif=facts)).size == (1, 2)
    assert decode_picture(file_of(wide, "JPEG")).size == (2, 1)


def test_what_cannot_be_decoded_says_why() -> None:
    for data in (b"", b"GIF89a", picture()[:40]):
        with pytest.raises(ImageUnreadable):
            decode_picture(data)
