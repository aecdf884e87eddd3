"""The text before a position in a reply, as its model had it: to look at the probabilities of what came next."""

from __future__ import annotations

from collections.abc import Sequence

from modules.conversations.conversation import ChatMessage
from modules.core.reasoning import ReasoningMarkers


def text_before(prompt: str, reply: ChatMessage, length: int, markers: Sequence[ReasoningMarkers], inside: bool) -> str:
    """Return the `prompt` of the reply's receipt and the first `length` characters of the reply's answer.

    `markers` are those that may begin the reply, `inside` is whether the prompt has opened the first of them: the
    result of `reasoning_markers`. Newlines around markers are not stored; one is assumed where models write it.
    """
    repeated = _overlap(prompt, reply.content)
    if repeated:  # a reply that was continued, or that was to start with a text
        return prompt[:-repeated] + reply.content[:length]
    thought = ""
    if reply.reasoning and markers:
        opening = "" if inside else markers[0].open + "\n"
        header = markers[0].headers[0] if markers[0].headers else "\n\n"
        thought = f"{opening}{reply.reasoning}\n{markers[0].close}{header}"
    # The space with which the line of a script begins is not stored. Chinese and Japanese have none there.
    first = reply.content[:1]
    space = " " if length and prompt.endswith(":") and not thought and first.strip() and first.isascii() else ""
    return prompt + thought + space + reply.content[:length]


def _overlap(prompt: str, content: str) -> int:
    """Return how many characters at the beginning of `content` are the end of `prompt`; blanks alone do not count."""
    if not content:
        return 0
    start = prompt.find(content[0], max(len(prompt) - len(content), 0))
    while start >= 0:
        if content.startswith(prompt[start:]) and prompt[start:].strip():
            return len(prompt) - start
        start = prompt.find(content[0], start + 1)
    return 0
