"""Exports of llama-server's page, in their present and their earlier form."""

from __future__ import annotations

from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import (
    LLAMA_SERVER,
    LLAMA_SERVER_OF_2025,
    PNG,
    archive,
    imported,
    lines,
    only,
    problems,
    texts,
)


def test_json_lines_keep_the_tree_thoughts_tools_and_files() -> None:
    result = import_file("conversation.jsonl", lines(LLAMA_SERVER))
    conversation = only(result)
    assert texts(conversation) == [("user", "What is a goose?"), ("assistant", "A bird.")]
    question, answer = conversation.path()
    assert (answer.reasoning, answer.extra["model"]) == ("Look it up.", "qwen3")
    assert answer.extra["tool_calls"] == [
        {"id": "t1", "function": {"name": "look_up", "arguments": "{}"}},
        {"result": "a bird", "id": "t1"},
    ]
    assert [file.kind for file in question.attachments] == ["text", "image"]
    assert [result.files[file.sha256] for file in question.attachments] == [b"goose", PNG]
    other = conversation.messages[conversation.children(question.id)[1]]
    assert (other.reasoning, other.content) == ("Hm.", "An animal.")
    assert (conversation.title, conversation.system) == ("Geese", "Be brief.")
    assert (conversation.created, conversation.updated) == (1780000002.0, 1780000009.0)
    assert "does not contain: 1" in problems(result), "the recording"


def test_several_conversations_follow_each_other_or_lie_in_an_archive() -> None:
    together = import_file("all.jsonl", lines([*LLAMA_SERVER, *LLAMA_SERVER]))
    apart = import_file("all.zip", archive({"a.jsonl": lines(LLAMA_SERVER), "b.jsonl": lines(LLAMA_SERVER)}))
    for result in (together, apart):
        assert [texts(conversation)[-1][1] for conversation in result.conversations] == ["A bird.", "A bird."]


def test_json_of_2025_has_numbers_as_ids() -> None:
    conversation = imported([LLAMA_SERVER_OF_2025])
    assert texts(conversation) == [("user", "Hello"), ("assistant", "Hi.")]
    assert conversation.path()[-1].reasoning == "Greet."
    assert texts(imported(LLAMA_SERVER_OF_2025)) == texts(conversation)
