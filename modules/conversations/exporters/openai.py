"""The messages that are shown, as a body for `POST /v1/chat/completions`."""

from __future__ import annotations

import base64

from modules.conversations.attachments import message_text
from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.conversations.exporters.blobs import ReadBlob, media_type_of
from modules.conversations.reader import title_of
from modules.core.events import Json


def to_openai(conversation: Conversation, read_blob: ReadBlob) -> Json:
    """Return title and messages. Texts of attached files are part of their message, pictures are `data:` URIs."""
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    messages = [_message(message, read_blob) for message in conversation.path()]
    return {"title": title_of(conversation), "messages": [*system, *messages]}


def _message(message: ChatMessage, read_blob: ReadBlob) -> dict[str, Json]:
    text = message_text(message)
    pictures = [part for part in (_picture(file, read_blob) for file in message.attachments) if part]
    content: Json = [*pictures, *([{"type": "text", "text": text}] if text else [])] if pictures else text
    thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
    return {"role": message.role, "content": content, **thought}


def _picture(file: Attachment, read_blob: ReadBlob) -> Json:
    """Return a picture as a part of a message; None for other files, and if its bytes are missing."""
    data = read_blob(file.sha256) if file.kind == "image" else None
    if data is None:
        return None
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{media_type_of(data)};base64,{base64.b64encode(data).decode()}"},
    }
