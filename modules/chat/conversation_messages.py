"""Turn a stored conversation into the messages that a chat template gets."""

from __future__ import annotations

from collections.abc import Sequence

from modules.chat.message import Message
from modules.conversations.attachments import message_text
from modules.conversations.conversation import ChatMessage, Conversation


def template_messages(conversation: Conversation, path: Sequence[ChatMessage]) -> list[Message]:
    """Return the system message of the conversation, if it has one, and the messages of `path`."""
    return [*_system(conversation), *map(_message, path)]


def index_of(conversation: Conversation, path: Sequence[ChatMessage], id: str) -> int:
    """Return the index of a message among `template_messages`, 0 if it is not among them."""
    ids = [message.id for message in path]
    return ids.index(id) + len(_system(conversation)) if id in ids else 0


def id_at(conversation: Conversation, path: Sequence[ChatMessage], index: int) -> str:
    """Return the id of the message with that index among `template_messages`."""
    return path[index - len(_system(conversation))].id


def _system(conversation: Conversation) -> list[Message]:
    return [{"role": "system", "content": conversation.system}] if conversation.system.strip() else []


def _message(message: ChatMessage) -> Message:
    thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
    return {"role": message.role, "content": message_text(message), **thought}
