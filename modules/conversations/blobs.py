"""Files stored once by their SHA-256: attachments, and the prompts of receipts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path

from modules.conversations.errors import ConversationNotSaved, VisitorMemoryFull
from modules.conversations.folder import MAX_MEMORY_BYTES, replace_file
from modules.system.leftovers import sweep

MIN_AGE = 24 * 3600.0
"""Seconds for which a blob is kept that no conversation uses: its message may be about to be sent."""
UNSENT_SECONDS = 600.0
"""How long a blob in memory is kept whose message is about to be sent."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """Blobs in `folder`, which need not exist; in memory if it is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, bytes] = {}
        self._unsent: dict[str, float] = {}  # when those in memory were put that are about to be sent
        self._lock = threading.Lock()

    def put(self, content: bytes, *, unsent: bool = False) -> str:
        """Store the content unless it is stored already, and return its SHA-256.

        If it is `unsent`, a message that is about to be sent will use it. Raises ConversationNotSaved, or
        VisitorMemoryFull.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        if self._folder is None:
            with self._lock:
                self._put_in_memory(sha256, content)
                if unsent:
                    self._unsent[sha256] = time.time()
            return sha256
        path = self._folder / sha256
        try:
            with self._lock:
                if path.is_file() and path.stat().st_size == len(content):
                    os.utime(path)  # it is used again
                else:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    replace_file(path, content)
        except OSError as error:
            raise ConversationNotSaved(str(self._folder), error.strerror or str(error)) from error
        return sha256

    def _put_in_memory(self, sha256: str, content: bytes) -> None:
        if sha256 not in self._memory and sum(map(len, self._memory.values())) + len(content) > MAX_MEMORY_BYTES:
            raise VisitorMemoryFull(MAX_MEMORY_BYTES // 1_000_000)
        self._memory[sha256] = content

    def get(self, sha256: str) -> bytes:
        """Return the content. Raises KeyError if it is not stored, or if the file was changed or cannot be read."""
        if self._folder is None:
            return self._memory[sha256]
        if not _SHA256.fullmatch(sha256):
            raise KeyError(sha256)
        try:
            content = (self._folder / sha256).read_bytes()
        except OSError as error:
            raise KeyError(sha256) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise KeyError(sha256)
        return content

    def find(self, sha256: str) -> bytes | None:
        """Return the content as `get` does, None if it cannot be had."""
        with contextlib.suppress(KeyError):
            return self.get(sha256)
        return None

    def __contains__(self, sha256: str) -> bool:
        if self._folder is None:
            return sha256 in self._memory
        return _SHA256.fullmatch(sha256) is not None and (self._folder / sha256).is_file()

    def forget_unused(self, used: Collection[str], min_age: float = MIN_AGE) -> int:
        """Delete blobs not in `used` that were put longer than `min_age` seconds ago, and return how many.

        Those in memory are never on the disk, and as little of them as possible stays: all go at once, but those that
        are about to be sent after UNSENT_SECONDS.
        """
        if self._folder is None:
            with self._lock:
                until = time.time() - UNSENT_SECONDS
                self._unsent = {sha256: at for sha256, at in self._unsent.items() if at >= until}
                unused = [sha256 for sha256 in self._memory if sha256 not in used and sha256 not in self._unsent]
                for sha256 in unused:
                    del self._memory[sha256]
            return len(unused)
        count = 0
        with contextlib.suppress(OSError), self._lock:
            names = os.listdir(self._folder)
            sweep(self._folder, {name[1:].rpartition(".")[0] for name in names if name.startswith(".")})
            for name in names:
                path = self._folder / name
                if _SHA256.fullmatch(name) and name not in used and time.time() - path.stat().st_mtime > min_age:
                    path.unlink()
                    count += 1
        return count
