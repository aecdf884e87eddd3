"""Conversations in the program's own format, with everything that belongs to them."""

from __future__ import annotations

import base64
import re

from modules.conversations.conversation import Conversation
from modules.conversations.exporters.blobs import ReadBlob
from modules.conversations.file_format import to_bytes
from modules.conversations.importers.own import BLOBS

MAX_BLOB_BYTES = 30_000_000
"""Of all attachments and prompts together: a file that is much larger could not be imported again."""

_SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def to_own(conversation: Conversation, read_blob: ReadBlob) -> bytes:
    """Return the conversation's file, and in it the attachments and prompts that it names."""
    content = to_bytes(conversation)
    room = MAX_BLOB_BYTES
    blobs: dict[str, str] = {}
    for sha256 in dict.fromkeys(match.decode() for match in _SHA256.findall(content)):
        data = read_blob(sha256)
        if data is not None and len(data) <= room:
            blobs[sha256] = base64.b64encode(data).decode()
            room -= len(data)
    if not blobs:
        return content
    complete = conversation.copy()
    complete.extra[BLOBS] = blobs
    return to_bytes(complete)
