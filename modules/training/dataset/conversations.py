"""Rows of data as conversations, in the forms that are published: messages, ShareGPT, instructions, questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.message import Message
from modules.core.events import Json
from modules.core.quotes import in_quotes
from modules.training.dataset.values import BadValue, checked_text, is_missing

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt", "bing", "bard"), "assistant"),
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
}
_LISTS = ("messages", "conversations", "conversation")
_PAIRS = (
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
)
"""Fields of a question and of its answer."""
FORMS = "messages, conversations, instruction + output, prompt + completion, question + answer, text"
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names under which messages have their thoughts."""


@dataclass(frozen=True)
class Conversation:
    """Messages of which the last one is the assistant's, and the tools that they may call."""

    messages: tuple[Message, ...]
    tools: Json = None

    @property
    def answers(self) -> list[int]:
        """The positions of the assistant's messages."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]


def conversation_of(fields: Mapping[str, Any]) -> Conversation | None:
    """Return a row as a conversation, None if its fields are not those of one. Raises BadValue."""
    present = {name: value for name, value in fields.items() if not is_missing(value)}
    name = next((name for name in _LISTS if isinstance(present.get(name), list)), "")
    if name:
        messages = list(_messages(present[name], name))
    else:
        pair = next((pair for pair in _PAIRS if set(pair) <= set(present)), None)
        if pair is None:
            _refuse_half_pair(fields, present)
            return None
        messages = list(_messages_of_pair(present, *pair))
    if "system" in present and not any(message["role"] == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": checked_text(present["system"], "system")})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise BadValue("it has no answer of the assistant", "没有助手的回答")
    return Conversation(tuple(messages), _tools(present.get("tools")))


def _tools(raw: object) -> Json:
    """Return the tools of a conversation, which some files have as JSON text; None if there are none."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadValue("tools is not JSON", "tools 不是 JSON") from None
    if raw is not None and not isinstance(raw, list):
        raise BadValue("tools is not a list", "tools 不是列表")
    return raw or None


def _refuse_half_pair(fields: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raise BadValue for a question whose answer is there, but empty, or the other way round."""
    empty = (name for pair in _PAIRS if set(pair) <= set(fields) for name in pair if name not in present)
    for name in empty:
        raise BadValue(f"{name} is empty", f"{name} 为空")


def _messages_of_pair(present: Mapping[str, Any], question: str, answer: str) -> Iterator[Message]:
    """Yield the history, the question with its input, and the answer. Each may be a list of messages itself."""
    for exchange in _history(present.get("history")):
        yield from _exchange(*exchange)
    asked, answered = present[question], present[answer]
    if isinstance(asked, list) and isinstance(answered, list):
        yield from _messages([*asked, *answered], question)
        return
    text = checked_text(asked, question)
    if "input" in present:
        text += "\n\n" + checked_text(present["input"], "input")
    yield from _exchange(text, checked_text(answered, answer))


def _exchange(question: str, answer: str) -> Iterator[Message]:
    yield {"role": "user", "content": question}
    yield {"role": "assistant", "content": answer}


def _history(history: object) -> Iterator[tuple[str, str]]:
    """Yield earlier questions and answers, which are lists of two."""
    if history is None:
        return
    problem = BadValue("history is not a list of pairs of texts", "history 不是由成对文本组成的列表")
    if not isinstance(history, list):
        raise problem
    for exchange in history:
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise problem
        yield checked_text(exchange[0], "history"), checked_text(exchange[1], "history")


def _messages(raw: Sequence[Any], name: str) -> Iterator[Message]:
    for number, message in enumerate(raw, 1):
        where = f"{name}[{number}]"
        if not isinstance(message, dict):
            raise BadValue(f"{where} is not a message", f"{where} 不是消息")
        written = message.get("role", message.get("from"))
        role = _ROLES.get(written) if isinstance(written, str) else None
        if role is None:
            raise BadValue(
                f"{where} has the unknown role {str(written)[:40]!r}",
                f"{where} 的角色{in_quotes(str(written)[:40])}未知",
            )
        content = _content(message.get("content", message.get("value")), where)
        calls = message.get("tool_calls")
        if role == "system" and not content:
            continue
        if not content.strip() and not calls and role != "tool":
            raise BadValue(f"{where} ({role}) is empty", f"{where}（{role}）为空")
        yield {"role": role, "content": content, **_more(message, where)}


def _content(content: object, where: str) -> str:
    """Return the text of a message, which may be in parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                en, zh = f"{where} has a part that is not text", f"{where} 含有非文本内容"
                raise BadValue(en, zh)
            parts.append(checked_text(part.get("text"), where))
        return "".join(parts)
    return checked_text(content, where)


def _more(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what else templates ask of a message."""
    kept: dict[str, Any] = {
        key: checked_text(message[key], f"{where}.{key}")
        for key in (*THOUGHTS, "name", "tool_call_id")
        if not is_missing(message.get(key))
    }
    if isinstance(message.get("tool_calls"), list):
        kept["tool_calls"] = message["tool_calls"]
    return kept
