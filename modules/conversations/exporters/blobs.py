"""How exports get the bytes of attachments and receipts."""

from __future__ import annotations

from collections.abc import Callable

ReadBlob = Callable[[str], bytes | None]
"""Return the bytes with a SHA-256, or None if they are missing."""

_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def media_type_of(data: bytes) -> str:
    """Return the media type of an image."""
    known = (kind for signature, kind in _MEDIA_TYPES.items() if data.startswith(signature))
    return next(known, "application/octet-stream")
