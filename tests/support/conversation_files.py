"""Helpers for tests of conversations: edits, files that another program has written, and the titles of the list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from modules.conversations.conversation import ChatMessage, Conversation
from modules.conversations.store import ConversationStore

HISTORY = json.dumps({"internal": [["What is <b>?", "Bold & more"]], "visible": [["", ""]]})


def say(*texts: str, role: str = "user") -> Callable[[Conversation], ChatMessage]:
    def edit(conversation: Conversation) -> ChatMessage:
        return [conversation.add(role, text) for text in texts][-1]

    return edit


def started(store: ConversationStore, text: str, **fields: object) -> str:
    id = store.create(**fields).id
    store.change(id, None, say(text))
    return id


def foreign(store_folder: Path, name: str = "instruct/old.json", content: str = HISTORY) -> Path:
    path = store_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def titles(store: ConversationStore) -> list[str]:
    return [summary.title for summary in store.list()]
