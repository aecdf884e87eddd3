"""The messages of a conversation for a model, with their pictures if it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.errors import ImageRefused, ImagesUnsupported
from modules.chat.images import MAX_IMAGES, check_image, image_part, mark_images
from modules.chat.message import Message
from modules.conversations.attachments import message_text
from modules.conversations.conversation import Attachment, ChatMessage
from modules.conversations.exporters.blobs import ReadBlob
from modules.core.prompt import Image
from modules.runtime.loaded_model import LoadedModel

IMAGE = "image"
"""The kind of an attachment."""


@dataclass(frozen=True)
class PathMessages:
    """Messages whose contents are texts, with marks of the `images`. `left_out` pictures are not among these."""

    messages: tuple[Message, ...]
    images: tuple[Image, ...] = ()
    left_out: int = 0


def path_messages(path: Sequence[ChatMessage], read_blob: ReadBlob | None) -> PathMessages:
    """Return the messages as a model gets them; without `read_blob` those for a model that reads text alone.

    Left out are pictures that are missing or in a format that models do not read, and all but the last MAX_IMAGES.
    """
    wanted = sum(_is_picture(attachment) for message in path for attachment in message.attachments)
    files: dict[str, bytes] = {}
    messages: list[Message] = []
    sent = 0
    for message in reversed(path):
        ids = [] if read_blob is None else _readable(message, read_blob, files)
        ids = ids[max(len(ids) - (MAX_IMAGES - sent), 0) :]
        sent += len(ids)
        messages.append(_message(message, ids))
    marked, images = mark_images(messages[::-1], files)
    return PathMessages(tuple(marked), images, wanted - sent)


def _readable(message: ChatMessage, read_blob: ReadBlob, files: dict[str, bytes]) -> list[str]:
    """Return the ids of the pictures of a message that a model can read, and add them to `files`."""
    found = []
    for attachment in filter(_is_picture, message.attachments):
        data = files.get(attachment.sha256) or read_blob(attachment.sha256)
        try:
            if data is None or check_image(data).id != attachment.sha256:
                continue
        except ImageRefused:
            continue
        files[attachment.sha256] = data
        found.append(attachment.sha256)
    return found


def _message(message: ChatMessage, ids: Sequence[str]) -> Message:
    thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
    text = message_text(message)
    content: Any = [*map(image_part, ids), {"type": "text", "text": text}] if ids else text
    return {"role": message.role, "content": content, **thought}


def _is_picture(attachment: Attachment) -> bool:
    return attachment.kind == IMAGE


def refuse_pictures(model: LoadedModel, attachments: Sequence[Attachment]) -> None:
    """Raise ImagesUnsupported if there is a picture among the files for a model that reads text alone."""
    if not model.info.images and any(map(_is_picture, attachments)):
        raise ImagesUnsupported(model.record.name, model.engine_name)
