"""Pictures in messages: what is accepted, and how they become marks in the text that a template gets.

A message with pictures has a list of parts as its content: {"type": "text", "text": str} and
{"type": "image", "id": the SHA-256 of the file in hexadecimal}. Source of the limits: docs/security.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.errors import ImageRefused
from modules.chat.message import Message
from modules.core.errors import Words
from modules.core.image_marks import escaped, mark
from modules.core.prompt import Image
from modules.formats.image_header import MAX_IMAGE_PIXELS, read_image_header

MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGES = 32
"""Pictures in one conversation."""

_TOO_LARGE: Words = {
    "en": f"it has more than {MAX_IMAGE_BYTES // 10**6} MB",
    "zh": f"文件超过 {MAX_IMAGE_BYTES // 10**6} MB",
}
_TOO_MANY_PIXELS: Words = {
    "en": f"it has {{width}} × {{height}} pixels, and at most {MAX_IMAGE_PIXELS // 10**6} million are accepted",
    "zh": f"尺寸为 {{width}} × {{height}} 像素，超过 {MAX_IMAGE_PIXELS // 10**4} 万像素的上限",
}
_UNKNOWN: Words = {"en": "it is not a PNG, JPEG or WebP file", "zh": "它不是 PNG、JPEG 或 WebP 文件"}
_TOO_MANY: Words = {
    "en": f"the conversation has more than {MAX_IMAGES} images",
    "zh": f"对话中的图片超过 {MAX_IMAGES} 张",
}


@dataclass(frozen=True)
class ImageFacts:
    """A picture that may be sent to a model. `id` is the SHA-256 of its file, `format` "png", "jpeg" or "webp"."""

    id: str
    format: str
    width: int
    height: int


def check_image(data: bytes) -> ImageFacts:
    """Return the facts of a picture, by its header alone. Raises ImageRefused for what is too large or no picture."""
    check_image_size(len(data))
    header = read_image_header(data)
    if header is None:
        raise ImageRefused(_UNKNOWN)
    if header.width * header.height > MAX_IMAGE_PIXELS:
        size = {"width": header.width, "height": header.height}
        raise ImageRefused({language: words.format(**size) for language, words in _TOO_MANY_PIXELS.items()})
    return ImageFacts(hashlib.sha256(data).hexdigest(), header.format, header.width, header.height)


def check_image_size(size: int) -> None:
    """Raise ImageRefused for a file of more than MAX_IMAGE_BYTES bytes."""
    if size > MAX_IMAGE_BYTES:
        raise ImageRefused(_TOO_LARGE)


def image_part(image_id: str) -> dict[str, str]:
    """Return the part of a message that stands for a picture."""
    return {"type": "image", "id": image_id}


def has_images(messages: Sequence[Message]) -> bool:
    return any(_is_image(part) for message in messages for part in _parts(message))


def without_images(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with their text alone, as a model gets them that cannot read images."""
    return mark_images(messages, {}, leave_out=True)[0]


def mark_images(
    messages: Sequence[Message], files: Mapping[str, bytes], leave_out: bool = False
) -> tuple[list[Message], tuple[Image, ...]]:
    """Return the messages with a mark in place of each picture, all contents being texts, and the pictures they mark.

    `files` has the content of each picture by its id. With `leave_out`, there are neither marks nor pictures. Messages
    are returned unchanged if there is none with a picture. Raises ImageRefused if there are too many.
    """
    if not has_images(messages):
        return list(messages), ()
    ids = [part["id"] for message in messages for part in _parts(message) if _is_image(part)]
    if len(ids) > MAX_IMAGES and not leave_out:
        raise ImageRefused(_TOO_MANY)
    numbers = {image_id: number for number, image_id in enumerate(dict.fromkeys(ids))}
    marked: list[Message] = [_marked(message, {} if leave_out else numbers) for message in messages]
    return marked, () if leave_out else tuple(Image(image_id, files[image_id]) for image_id in numbers)


def _marked(message: Message, numbers: Mapping[str, int]) -> Message:
    fields: dict[str, Any] = {name: _escaped(value) for name, value in message.items() if name != "content"}
    content = message.get("content", "")
    if isinstance(content, str):
        return {**fields, "content": escaped(content)}
    if content is None:
        return {**fields, "content": None}
    text, after_image = "", True
    for part in content:
        if _is_image(part):
            text += mark(numbers[part["id"]]) if numbers else ""
            after_image = True
        else:  # texts are separated as in messages without pictures; a picture needs no separator
            text += ("" if after_image else "\n") + escaped(str(part.get("text", "")))
            after_image = False
    return {**fields, "content": text}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def _parts(message: Message) -> Sequence[Mapping[str, Any]]:
    content = message.get("content", "")
    return [] if isinstance(content, str) or content is None else content


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image"
