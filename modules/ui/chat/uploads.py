"""Files that were uploaded for a message which has not been sent yet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from modules.chat.attachment_text import read_attachment
from modules.conversations.attachments import MAX_TEXT_BYTES, safe_name
from modules.conversations.conversation import Attachment
from modules.conversations.errors import AttachmentRefused
from modules.conversations.store import ConversationStore
from modules.core.errors import Words

MAX_KEPT = 30
MAX_ATTACHMENTS = 10
"""Files of one message."""
MAX_TEXT = MAX_ATTACHMENTS * MAX_TEXT_BYTES
"""Characters of the files of one message."""
_NOT_KEPT: Words = {
    "en": "the server no longer has it, as after a restart. Remove it and attach it again",
    "zh": "服务器上已没有该文件（例如服务器重启过），请移除后重新添加",
}


class Uploads:
    """Keeps what was read of one visitor's last MAX_KEPT files, by the hash of their bytes. Any thread may call.

    Of files with more than `most_text` characters together, the older ones are not kept.
    """

    def __init__(self, most_text: int = MAX_TEXT) -> None:
        self._most_text = most_text
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Attachment] = OrderedDict()

    def add(self, store: ConversationStore, name: str, data: bytes) -> Attachment:
        """Read a file and store its bytes. Raises AttachmentRefused."""
        attachment = read_attachment(name, data)
        store.put_unsent(data)
        with self._lock:
            self._kept[attachment.sha256] = attachment
            self._kept.move_to_end(attachment.sha256)
            while len(self._kept) > 1 and (len(self._kept) > MAX_KEPT or self._size() > self._most_text):
                self._kept.popitem(last=False)
        return attachment

    def _size(self) -> int:
        return sum(len(one.text) for one in self._kept.values())

    def find(self, hashes: Sequence[str]) -> tuple[Attachment, ...]:
        """Return the files with these hashes, without those that are no longer kept."""
        with self._lock:
            return tuple(self._kept[hash] for hash in hashes[:MAX_ATTACHMENTS] if hash in self._kept)

    def of_message(self, files: Sequence[tuple[str, str]]) -> tuple[Attachment, ...]:
        """Return the files of a message, given as hashes and names: the same bytes may have several names.

        Raises AttachmentRefused for one that is no longer kept.
        """
        kept = {one.sha256: one for one in self.find([hash for hash, _ in files])}
        attachments = []
        for hash, name in files[:MAX_ATTACHMENTS]:
            if hash not in kept:
                raise AttachmentRefused(safe_name(name), _NOT_KEPT)
            attachments.append(replace(kept[hash], name=safe_name(name)) if name else kept[hash])
        return tuple(attachments)
