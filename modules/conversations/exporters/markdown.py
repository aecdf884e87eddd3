"""The messages that are shown, as Markdown to read."""

from __future__ import annotations

import re
import time

from modules.conversations.attachments import message_text
from modules.conversations.conversation import ChatMessage, Conversation
from modules.conversations.reader import title_of
from modules.core.errors import Words

_UNTITLED: Words = {"en": "Untitled", "zh": "未命名"}
_SPEAKERS: dict[str, Words] = {
    "user": {"en": "User", "zh": "用户"},
    "assistant": {"en": "Assistant", "zh": "助手"},
}
_SYSTEM: Words = {"en": "System", "zh": "系统提示词"}
_THOUGHT: Words = {"en": "Thought", "zh": "思考过程"}
_THOUGHT_FOR: Words = {"en": "Thought for {seconds:.1f} s", "zh": "思考了 {seconds:.1f} 秒"}
_PICTURE: Words = {"en": "Image: {name}", "zh": "图片：{name}"}
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_BACKSLASHED = re.compile(r"([\\`*_\[\]<>#])")


def to_markdown(conversation: Conversation, language: str) -> str:
    """Return the path that is shown: title, roles, times, thoughts folded in a quote, texts as they are."""
    parts = [f"# {_escaped(title_of(conversation) or _UNTITLED[language])}"]
    if conversation.system:
        parts.append(f"## {_SYSTEM[language]}\n\n{_quote(conversation.system)}")
    parts += [_message(message, language) for message in conversation.path()]
    return "\n\n".join(parts) + "\n"


def _message(message: ChatMessage, language: str) -> str:
    name = message.extra.get("name")
    speaker = _escaped(name) if isinstance(name, str) and name else _SPEAKERS[message.role][language]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(message.created)) if message.created else ""
    parts = ["## " + " · ".join(filter(None, (speaker, when)))]
    if message.reasoning:
        parts.append(_thought(message, language))
    pictures = [attachment for attachment in message.attachments if attachment.kind != "text"]
    parts += [f"*{_PICTURE[language].format(name=_escaped(picture.name))}*" for picture in pictures]
    parts.append(close_fences(message_text(message).strip("\n")))
    return "\n\n".join(filter(None, parts))


def _thought(message: ChatMessage, language: str) -> str:
    words = _THOUGHT_FOR if message.reasoning_seconds else _THOUGHT
    summary = words[language].format(seconds=message.reasoning_seconds)
    # The end of the fold in the thought itself must not close it.
    quoted = _quote(message.reasoning.replace("</details", "<\\/details"))
    return f"<details>\n<summary>{summary}</summary>\n\n{quoted}\n\n</details>"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip(" ") for line in close_fences(text.strip("\n")).split("\n"))


def close_fences(text: str) -> str:
    """Close a code block that is still open at the end, so that it does not swallow what follows."""
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
    return f"{text}\n{fence}" if fence else text


def _escaped(text: str) -> str:
    return _BACKSLASHED.sub(r"\\\1", " ".join(text.split()))
