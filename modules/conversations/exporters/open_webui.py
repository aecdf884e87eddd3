"""Conversations in the form of Open WebUI's exports, which it can import."""

from __future__ import annotations

import base64
import html

from modules.conversations.conversation import ROOT, Attachment, ChatMessage, Conversation
from modules.conversations.exporters.blobs import ReadBlob, media_type_of
from modules.conversations.importers.values import as_mapping, as_text
from modules.conversations.reader import title_of
from modules.core.events import Json


def to_open_webui(conversation: Conversation, read_blob: ReadBlob) -> list[Json]:
    """Return all versions of all messages, and which of them are shown. Thoughts are a part of the text there."""
    models = list(dict.fromkeys(filter(None, map(_model, conversation.messages.values())))) or [""]
    messages = {
        message.id: _message(conversation, message, models, read_blob) for message in conversation.messages.values()
    }
    title = title_of(conversation)
    chat = {
        "title": title,
        "models": models,
        "params": {"system": conversation.system} if conversation.system else {},
        "history": {"messages": messages, "currentId": conversation.current or None},
        "messages": [messages[message.id] for message in conversation.path()],
        "tags": [],
        "timestamp": int(conversation.created * 1000),
    }
    entry = {
        "id": conversation.id,
        "title": title,
        "chat": chat,
        "created_at": int(conversation.created),
        "updated_at": int(conversation.updated),
        "pinned": conversation.pinned,
        "archived": False,
        "meta": {},
        "folder_id": None,
    }
    return [entry]


def _message(conversation: Conversation, message: ChatMessage, models: list[str], read_blob: ReadBlob) -> Json:
    data: dict[str, Json] = {
        "id": message.id,
        "parentId": None if message.parent == ROOT else message.parent,
        "childrenIds": conversation.children(message.id),
        "role": message.role,
        "content": _thought(message) + message.content,
        "timestamp": int(message.created),
    }
    if message.role == "user":
        data["models"] = models
    else:
        model = _model(message)
        data |= {"model": model, "modelName": model, "modelIdx": 0, "done": not message.incomplete}
    if files := [file for file in (_file(attachment, read_blob) for attachment in message.attachments) if file]:
        data["files"] = files
    if calls := message.extra.get("tool_calls"):
        data["tool_calls"] = calls
    return data


def _thought(message: ChatMessage) -> str:
    if not message.reasoning:
        return ""
    seconds = f"{message.reasoning_seconds:.3f}".rstrip("0").rstrip(".")
    quoted = html.escape("\n".join(f"> {line}" for line in message.reasoning.split("\n")))
    summary = f"<summary>Thought for {seconds} seconds</summary>"
    return f'<details type="reasoning" done="true" duration="{seconds}">\n{summary}\n{quoted}\n</details>\n'


def _model(message: ChatMessage) -> str:
    receipt = as_mapping(message.receipt)
    return as_text(as_mapping(receipt.get("model")).get("name")) or as_text(message.extra.get("model"))


def _file(attachment: Attachment, read_blob: ReadBlob) -> Json:
    """Return an attachment as a file of a message; None for an image whose bytes are missing."""
    if attachment.kind == "text":
        file = {"filename": attachment.name, "data": {"content": attachment.text}}
        return {"type": "file", "name": attachment.name, "size": attachment.size, "file": file, "status": "uploaded"}
    data = read_blob(attachment.sha256)
    if data is None:
        return None
    return {
        "type": "image",
        "name": attachment.name,
        "url": f"data:{media_type_of(data)};base64,{base64.b64encode(data).decode()}",
    }
