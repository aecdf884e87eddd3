"""Read the example dialogue of a character: blocks that begin with <START>, of lines that begin with a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modules.chat.message import Message

START = "<START>"
_START = re.compile(r"<START>", re.IGNORECASE)


@dataclass(frozen=True)
class ExampleBlock:
    """One dialogue: its messages, and the text before the first of them."""

    heading: str
    messages: tuple[Message, ...]


def read_examples(text: str, user: str, char: str) -> list[ExampleBlock]:
    """Return the dialogues in a text whose macros have been replaced by the names `user` and `char`."""
    speaker = re.compile(rf"^[ \t]*({re.escape(user)}|{re.escape(char)})[ \t]*[:：][ \t]*", re.MULTILINE)
    return [_read_block(block.strip(), speaker, user) for block in _START.split(text) if block.strip()]


def _read_block(block: str, speaker: re.Pattern[str], user: str) -> ExampleBlock:
    heading, *rest = speaker.split(block)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    messages = [{"role": "user" if name == user else "assistant", "content": text.strip()} for name, text in pairs]
    return ExampleBlock(heading.strip(), tuple(messages))
