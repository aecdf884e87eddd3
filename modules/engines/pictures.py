"""Decode pictures that users send. Imported by workers alone, as it needs Pillow."""

from __future__ import annotations

import io

from PIL import Image as Picture
from PIL import ImageOps

from modules.core.worker_errors import ImageUnreadable
from modules.formats.image_header import MAX_IMAGE_PIXELS


def decode_picture(data: bytes) -> Picture.Image:
    """Decode a PNG, JPEG or WebP file into an RGB picture, upright and on white. Raises ImageUnreadable."""
    try:
        with Picture.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as file:
            if file.width * file.height > MAX_IMAGE_PIXELS:  # a second header: the first one was checked before
                raise ImageUnreadable(f"it has {file.width} × {file.height} pixels")
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                picture = Picture.alpha_composite(Picture.new("RGBA", layer.size, "white"), layer)
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Picture.DecompressionBombError) as error:
        raise ImageUnreadable(str(error) or type(error).__name__) from error
