"""Whether a file is what its repository says: its sha256, or of small ones the hash that git gives them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from modules.hub.errors import DigestAmbiguous, DigestDiffers, DigestUnlisted
from modules.hub.repository import RemoteFile

CHUNK = 1 << 20


class Digest(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def digest(file: RemoteFile) -> Digest:
    """What to feed the bytes of `file` to, from its first to its last."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def expected(file: RemoteFile) -> str:
    return file.sha256 or file.git_oid


def confirm(files: Sequence[RemoteFile], sha256: str) -> None:
    """Whether the one large file of `files` is listed with that `sha256`. DigestUnlisted, DigestAmbiguous,
    DigestDiffers."""
    large = [file for file in files if file.sha256]
    if not large:
        raise DigestUnlisted(files[0].path)
    if len(large) > 1:
        raise DigestAmbiguous(len(large))
    if large[0].sha256 != sha256:
        raise DigestDiffers(large[0].path, sha256, large[0].sha256)


def read_back(descriptor: int, into: Digest, watch: Callable[[int], None]) -> str:
    """The hash of all that is in an open file. `watch` gets the number of bytes read so far; it may raise.

    Whole chunks are hashed without Python's lock, so that other threads are not kept waiting.
    """
    buffer = bytearray(CHUNK)
    place = 0
    while count := os.preadv(descriptor, [buffer], place):
        into.update(memoryview(buffer)[:count])
        place += count
        watch(place)
    return into.hexdigest()
