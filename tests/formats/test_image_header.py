"""Headers of pictures as Pillow writes them, and files that are damaged."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from modules.formats.image_header import ImageHeader, read_image_header
from tests.support.pictures import picture


def test_the_format_and_the_size_are_those_of_the_file(subtests: pytest.Subtests) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        for size in ((1, 1), (20, 12), (640, 3)):
            with subtests.test(kind=kind, size=size):
                assert read_image_header(picture(kind, *size)) == ImageHeader(kind.lower(), *size)


def test_every_kind_of_webp_and_jpeg_is_read(subtests: pytest.Subtests) -> None:
    kinds = {
        "lossless": ("RGB", "webp", {"lossless": True}),
        "with transparency": ("RGBA", "webp", {}),
        "progressive": ("RGB", "jpeg", {"progressive": True}),
        "with a comment": ("RGB", "jpeg", {"comment": b"x" * 60000}),
        "with a profile": ("CMYK", "jpeg", {"icc_profile": b"y" * 100_000}),
    }
    for name, (mode, kind, options) in kinds.items():
        with subtests.test(name):
            file = io.BytesIO()
            Image.new(mode, (33, 44)).save(file, kind, **options)
            assert read_image_header(file.getvalue()) == ImageHeader(kind, 33, 44)


def test_other_and_damaged_files_have_no_header() -> None:
    assert read_image_header(picture("GIF")) is None
    assert read_image_header(b"") is None
    assert read_image_header(b"RIFF\0\0\0\0WAVEfmt ") is None
    for kind in ("PNG", "JPEG", "WEBP"):
        assert read_image_header(picture(kind)[:15]) is None
    assert read_image_header(b"\xff\xd8" + b"\xff\x01" * 10_000) is None, "markers without end"


def test_random_bytes_never_raise() -> None:
    rng = random.Random(5)
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = picture(kind)[:200]
        for _ in range(500):
            damaged = bytearray(whole[: rng.randrange(12, len(whole) + 1)])
            damaged[rng.randrange(4, len(damaged))] = rng.randrange(256)
            read_image_header(bytes(damaged))
