"""Files that were uploaded for a message which has not been sent yet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from modules.chat.attachment_text import read_attachment
from modules.conversations.conversation import Attachment
from modules.conversations.store import ConversationStore

MAX_KEPT = 30
MAX_ATTACHMENTS = 10
"""Files of one message."""


class Uploads:
    """Keeps what was read of the last MAX_KEPT files, by the hash of their bytes. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Attachment] = OrderedDict()

    def add(self, store: ConversationStore, name: str, data: bytes) -> Attachment:
        """Read a file and store its bytes. Raises AttachmentRefused."""
        attachment = read_attachment(name, data)
        store.put_unsent(data)
        with self._lock:
            self._kept[attachment.sha256] = attachment
            self._kept.move_to_end(attachment.sha256)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return attachment

    def find(self, hashes: Sequence[str]) -> tuple[Attachment, ...]:
        """Return the files with these hashes, without those that are no longer kept."""
        with self._lock:
            return tuple(self._kept[hash] for hash in hashes[:MAX_ATTACHMENTS] if hash in self._kept)
