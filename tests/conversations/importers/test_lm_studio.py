"""Conversations of LM Studio: versions, and answers in steps."""

from __future__ import annotations

from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import LM_STUDIO, json_bytes, only, problems, texts


def test_versions_thoughts_and_tool_calls_are_taken_over() -> None:
    result = import_file("1740000000000.conversation.json", json_bytes(LM_STUDIO))
    conversation = only(result)
    assert texts(conversation) == [("user", "What is a goose?"), ("assistant", "A bird.")]
    assert [conversation.messages[id].content for id in conversation.children("")] == ["Hello", "What is a goose?"]
    answer = conversation.path()[-1]
    assert answer.reasoning == "A bird?"
    assert answer.extra == {"model": "qwen3", "tool_calls": [{"type": "toolCallRequest", "name": "look_up"}]}
    assert (conversation.title, conversation.system, conversation.pinned) == ("Geese", "Be brief.", True)
    assert (conversation.created, conversation.updated) == (1740000000.0, 1740000002.0)
    assert "does not contain: 1" in problems(result)
