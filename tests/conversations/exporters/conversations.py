"""Conversations to export."""

from __future__ import annotations

import random

from modules.conversations.blobs import BlobStore
from modules.conversations.conversation import Attachment, Conversation
from modules.conversations.exporters.blobs import ReadBlob
from tests.conversations.importers.samples import PNG, own

TEXTS = (
    "", "Hello", "你好，世界", "\n\nA\n", "> quoted\n> again", "<b>&amp;</b>", "```html\n<details>\n```", "a\r\nb",
    "\\(x\\)", "````\n```\n````", "</details>", "1\n2\n\n3 ", "&gt; x",
)  # fmt: skip


def reader(blobs: BlobStore) -> ReadBlob:
    def read(sha256: str) -> bytes | None:
        return blobs.get(sha256) if sha256 in blobs else None

    return read


def with_attachments(blobs: BlobStore) -> Conversation:
    """Return a conversation whose last question has a text and an image."""
    conversation = own()
    text, image = blobs.put(b"goose, swan"), blobs.put(PNG)
    attachments = (
        Attachment("birds.txt", "text", text, 11, "goose, swan"),
        Attachment("goose.png", "image", image, len(PNG)),
    )
    conversation.add("user", "Look at these:", created=1714737610.0, attachments=attachments)
    conversation.add("assistant", "Geese.", created=1714737611.0)
    return conversation


def random_conversation(generator: random.Random) -> Conversation:
    """Return a conversation with branches, whose times are whole seconds."""
    conversation = Conversation("x", "Random", 1700000000.0, 1700009000.0, system=generator.choice(TEXTS).strip())
    for number in range(generator.randint(1, 30)):
        parent = generator.choice(["", *conversation.messages])
        answer = parent != "" and conversation.messages[parent].role == "user"
        reasoning = generator.choice(TEXTS) if answer and generator.random() < 0.5 else ""
        conversation.add(
            "assistant" if answer else "user",
            generator.choice(TEXTS),
            parent,
            reasoning=reasoning,
            reasoning_seconds=2.5 if reasoning else 0.0,
            created=1700000000.0 + number,
            incomplete=answer and generator.random() < 0.2,
            extra={"model": "qwen3"} if answer else {},
        )
    conversation.select(generator.choice(list(conversation.messages)))
    return conversation
