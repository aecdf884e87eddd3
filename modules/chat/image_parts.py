"""Where a chat template puts a picture: found by rendering one, for templates that take pictures as parts of a message.

A template writes a text for each picture, such as "<|vision_start|><|image_pad|><|vision_end|>". The prompt has the
mark of the picture in its place; the engine knows which tokens the model wants around a picture. Templates that take
no such parts get the marks as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.features import RenderAll, TemplateFeatures
from modules.chat.message import Message
from modules.core.image_marks import mark, marked_numbers, split_at_marks
from modules.core.prompt import Replacement

_BEFORE, _AFTER, _KEY = "probebefore", "probeafter", "probekey"
_PARTS: tuple[Mapping[str, Any], ...] = ({"type": "image"}, {"type": "image_url", "image_url": {"url": "data:,"}})
"""Pictures as templates ask for them; most know the first form."""


@dataclass(frozen=True)
class ImageForm:
    """The `part` that a template takes for a picture, and the `text` that it writes for it."""

    part: Mapping[str, Any]
    text: str

    def with_parts(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with a part in place of each mark."""
        return [
            {**message, "content": self._parts(_text(message))} if marked_numbers(_text(message)) else message
            for message in messages
        ]

    def _parts(self, text: str) -> list[Mapping[str, Any]]:
        return [
            {"type": "text", "text": piece} if isinstance(piece, str) else self.part for piece in split_at_marks(text)
        ]

    def with_marks(self, prompt: str, numbers: Sequence[int]) -> str | None:
        """Return `prompt` with the marks of these pictures in place of the template's texts, None if it has others."""
        pieces = prompt.split(self.text)
        if len(pieces) != len(numbers) + 1:
            return None
        marks = [mark(number) for number in numbers]
        return "".join(text for pair in zip(pieces, [*marks, ""], strict=True) for text in pair)


def marked_in(messages: Sequence[Message]) -> list[int]:
    """Return the numbers of the pictures that the contents of messages mark, in order."""
    return [number for message in messages for number in marked_numbers(_text(message))]


def probe_images(render: RenderAll, features: TemplateFeatures, source: str) -> ImageForm | None:
    """Return how a template takes pictures, None if it takes none as parts. See `ChatTemplates.probed`."""
    before, after = ({"type": "text", "text": text, _KEY: ""} for text in (_BEFORE, _AFTER))
    contents = [[before, after], *([before, *[part] * count, after] for part in _PARTS for count in (1, 2))]
    plain, *others = render([{"messages": [{"role": "user", "content": content}]} for content in contents])
    if not plain.shows(_BEFORE, _AFTER) or _KEY in plain.text:  # it writes the list itself
        return None
    for part, once, twice in zip(_PARTS, others[::2], others[1::2], strict=True):
        text = _inserted(plain.text, once.text).strip()
        if text and not once.error and once.text.count(text) == 1 and twice.text.count(text) == 2:
            return ImageForm(part, text)
    return None


def _inserted(without: str, text: str) -> str:
    """Return what `text` has more than `without` in one place, "" if it differs in another way."""
    change = Replacement.between(without, text)
    return change.text if change.start == change.end else ""


def _text(message: Message) -> str:
    """Return the text of a message whose content is a text, or a list with one part that is."""
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1:
        content = content[0].get("text")
    return content if isinstance(content, str) else ""
