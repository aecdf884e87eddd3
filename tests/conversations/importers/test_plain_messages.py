"""Lists of messages in the form of chat APIs."""

from __future__ import annotations

from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import PLAIN, PNG, imported, json_bytes, lines, only, texts


def test_parts_tool_calls_and_thoughts_are_read() -> None:
    result = import_file("chat.json", json_bytes(PLAIN))
    conversation = only(result)
    assert texts(conversation) == [("user", "Look:"), ("assistant", "A goose.")]
    question, answer = conversation.path()
    assert result.files[question.attachments[0].sha256] == PNG
    assert (answer.reasoning, conversation.system, conversation.title) == ("Obviously.", "Be brief.", "Plain")
    assert [call.get("result", "call") for call in answer.extra["tool_calls"]] == ["call", "a goose"]


def test_a_list_lines_and_the_form_of_sharegpt_are_read() -> None:
    expected = [("user", "Hello"), ("assistant", "Hi.")]
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    assert texts(imported(messages)) == expected
    assert texts(only(import_file("chat.jsonl", lines(messages)))) == expected
    shared = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]
    assert texts(imported({"id": "1", "conversations": shared})) == expected


def test_anthropic_thoughts_are_parts() -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi."}]
    answer = imported([{"role": "assistant", "content": parts}]).path()[0]
    assert (answer.reasoning, answer.content) == ("Hm.", "Hi.")
