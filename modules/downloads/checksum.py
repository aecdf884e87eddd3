"""Verify files against their repository: SHA-256 of large files, git blob ids of small ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from modules.downloads.errors import DigestAmbiguous, DigestDiffers, DigestUnlisted
from modules.hub.repository import RemoteFile

CHUNK = 1 << 20  # bytes


class Digest(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_digest(file: RemoteFile) -> Digest:
    """Return the hash object to feed with all bytes of `file`, in order."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def expected_hash(file: RemoteFile) -> str:
    """Return the hash that the repository lists for `file`."""
    return file.sha256 or file.git_oid


def check_listed_sha256(files: Sequence[RemoteFile], sha256: str) -> None:
    """Check that the only large file of `files` is listed with `sha256`.

    Raises DigestUnlisted, DigestAmbiguous or DigestDiffers.
    """
    large = [file for file in files if file.sha256]
    if not large:
        raise DigestUnlisted(files[0].path)
    if len(large) > 1:
        raise DigestAmbiguous(len(large))
    if large[0].sha256 != sha256:
        raise DigestDiffers(large[0].path, sha256, large[0].sha256)


def hash_file(descriptor: int, digest: Digest, on_progress: Callable[[int], None]) -> str:
    """Feed all bytes of an open file to `digest` and return its hexadecimal value.

    `on_progress` is called with the bytes read so far, and may raise to abort. Whole chunks are hashed without the GIL,
    so that other threads keep running.
    """
    buffer = bytearray(CHUNK)
    position = 0
    while count := os.preadv(descriptor, [buffer], position):
        digest.update(memoryview(buffer)[:count])
        position += count
        on_progress(position)
    return digest.hexdigest()
