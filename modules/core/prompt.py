"""A prompt on its way to a worker, which alone can count tokens: a text, and how it may be shortened until it fits."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from modules.core.events import Json

SYSTEM_ROLES = ("system", "developer")
"""Roles of messages that stay in a conversation whose oldest messages are dropped."""
PRIVATE = "private"
"""A parameter of a request whose prompt must never be on the disk: the worker then saves no prompts any more."""


@dataclass(frozen=True)
class Image:
    """A picture: the SHA-256 of its file in hexadecimal, and what is in the file, which is PNG, JPEG or WebP."""

    id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Prompt:
    """`text`, which may have `limit` tokens; 0 means as many as the context holds.

    If there are `tokens`, these ids are the prompt instead, with no BOS token added; `text` and `shorter` are ignored.

    A text with more tokens is shortened. With `truncate` its last tokens are kept. Otherwise the first of `shorter`
    that fits is taken; they are in order of falling length. With `target`, which is less than `limit`, it is the first
    with at most so many tokens, or the last one if none is that short: then the next prompts, which are a little
    longer, have the same beginning. `stop` are strings that end the answer beside those of the generation parameters,
    and `visible` are texts whose special tokens appear in the answer; the tokenizer of the prompt does not get them.
    `next_turn` is the text that will follow the answer if the conversation goes on, up to the next question.
    The text has a mark of `core.image_marks` for each of the `images`; a shorter text may leave some out. In place of
    a mark, the model's chat template writes `image_text`, which is empty if it writes nothing of its own.

    A model with `Info.messages` gets the `messages` of a conversation instead of the text, which then only serves to
    estimate its length; with `continues`, its answer continues the last one. Of the shorter text of some index, they
    are the ones from the number in `starts` on, and system messages before.
    """

    text: str
    limit: int = 0
    truncate: bool = False
    shorter: tuple[Replacement, ...] = ()
    stop: tuple[str, ...] = ()
    target: int = 0
    visible: tuple[str, ...] = ()
    next_turn: str = ""
    tokens: tuple[int, ...] = ()
    images: tuple[Image, ...] = ()
    image_text: str = ""
    messages: tuple[Mapping[str, Json], ...] = ()
    starts: tuple[int, ...] = ()
    continues: bool = False

    def used_text(self, shortened: int) -> str:
        """Return the text that a worker continued, given the `shortened` of its `Done`."""
        return self.text if shortened < 0 else self.shorter[shortened].apply(self.text)

    def used_messages(self, shortened: int) -> tuple[Mapping[str, Json], ...]:
        """Return the messages that a server continued, given the `shortened` of its `Done`."""
        if shortened < 0:
            return self.messages
        start = self.starts[shortened]
        return tuple(
            message for index, message in enumerate(self.messages) if index >= start or message["role"] in SYSTEM_ROLES
        )

    def to_json(self) -> Json:
        shorter = [(change.start, change.end, change.text) for change in self.shorter]
        images = [(image.id, base64.b64encode(image.data).decode()) for image in self.images]
        body = [self.text, self.limit, self.truncate, shorter, self.target, self.tokens, images, self.image_text]
        return [*body, self.messages, self.starts, self.continues] if self.messages else body

    @staticmethod
    def has_images(body: Json) -> bool:
        """Tell whether the prompt that `to_json` has turned into `body` has images, without decoding them."""
        return isinstance(body, list) and bool(body[6])

    @staticmethod
    def from_json(body: Json) -> Prompt:
        text, limit, truncate, changes, target, tokens, pictures, image_text, *rest = body
        shorter = tuple(Replacement(*change) for change in changes)
        images = tuple(Image(image_id, base64.b64decode(data)) for image_id, data in pictures)
        prompt = Prompt(
            text,
            limit,
            truncate,
            shorter,
            target=target,
            tokens=tuple(tokens),
            images=images,
            image_text=image_text,
        )
        if not rest:
            return prompt
        messages, starts, continues = rest
        return replace(prompt, messages=tuple(messages), starts=tuple(starts), continues=continues)


@dataclass(frozen=True)
class Replacement:
    """A text as the difference from another one, whose characters `start` to `end` are replaced by `text`.

    Conversations without their oldest messages have nearly all in common, so hundreds of them fit into one request.
    """

    start: int
    end: int
    text: str

    @staticmethod
    def between(old: str, new: str) -> Replacement:
        """Return the shortest replacement that makes `new` of `old`."""
        start = common_prefix(old, new)
        tail = common_prefix(old[start:][::-1], new[start:][::-1])
        return Replacement(start, len(old) - tail, new[start : len(new) - tail])

    def apply(self, old: str) -> str:
        return old[: self.start] + self.text + old[self.end :]


def common_prefix(first: str, second: str) -> int:
    """Return how many characters both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
