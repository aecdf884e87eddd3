"""Exports of Open WebUI keep their tree, thoughts, tool calls and files."""

from __future__ import annotations

from modules.conversations.importers.detect import import_file
from modules.conversations.importers.open_webui import split_reply
from tests.conversations.importers.samples import (
    OPEN_WEBUI,
    OPEN_WEBUI_OF_2023,
    PNG,
    imported,
    json_bytes,
    only,
    problems,
    texts,
)


def test_the_tree_and_what_is_shown_of_it_are_taken_over() -> None:
    conversation = imported(OPEN_WEBUI)
    assert texts(conversation) == [("user", "What is a goose?"), ("assistant", "A bird.")]
    versions = [conversation.messages[id] for id in conversation.versions(conversation.current)]
    assert [version.content for version in versions] == ["A bird.", "An animal."], "in the order of childrenIds"
    assert [version.incomplete for version in versions] == [False, True]
    assert [version.extra["model"] for version in versions] == ["qwen3", "llama3"]
    assert [message.created for message in conversation.path()] == [1700000001.0, 1700000003.0]
    assert (conversation.title, conversation.system, conversation.pinned) == ("Geese 鹅", "Be brief.", True)
    assert (conversation.created, conversation.updated) == (1700000000.0, 1700000100.0)


def test_thoughts_and_tool_calls_leave_the_text() -> None:
    result = import_file("export.json", json_bytes(OPEN_WEBUI))
    answer = only(result).path()[-1]
    assert (answer.reasoning, answer.reasoning_seconds) == ("A bird & more.\n\nYes.", 5.0)
    assert answer.extra["tool_calls"] == [
        {"kind": "tool_calls", "id": "c1", "name": "look_up", "arguments": '{"q": "goose"}', "result": '"bird"'}
    ]
    assert "tool calls and results that are kept in the file but not shown: 1" in problems(result)


def test_files_come_with_their_bytes_or_are_missed() -> None:
    result = import_file("export.json", json_bytes(OPEN_WEBUI))
    image, text = only(result).path()[0].attachments
    assert (image.kind, result.files[image.sha256]) == ("image", PNG)
    assert (text.name, text.text, result.files[text.sha256]) == ("birds.txt", "goose, swan", b"goose, swan")
    assert "images or attachments that the file does not contain: 1" in problems(result)


def test_chats_of_2023_are_lists_of_messages() -> None:
    conversation = imported(OPEN_WEBUI_OF_2023)
    assert texts(conversation) == [("user", "Hello"), ("assistant", "Hi.")]
    assert (conversation.title, conversation.created) == ("Old", 1690000000.0)


def test_a_single_chat_without_its_list_is_read() -> None:
    assert texts(imported(OPEN_WEBUI[0]["chat"]))[-1] == ("assistant", "A bird.")


def test_the_answer_may_be_in_the_output_alone() -> None:
    output = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Hi."}]}]
    messages = {"a": {"id": "a", "parentId": None, "role": "assistant", "content": "", "output": output}}
    chat = {"chat": {"history": {"currentId": "a", "messages": messages}}}
    assert texts(imported([chat])) == [("assistant", "Hi.")]


def test_details_in_code_blocks_and_unclosed_ones_stay_readable() -> None:
    code = 'See:\n```html\n<details type="reasoning" done="true">\nx\n</details>\n```\nEnd.'
    assert split_reply(code).content == code
    unclosed = split_reply('<details type="reasoning" done="false">\n<summary>Thinking…</summary>\n> A\n> B')
    assert (unclosed.reasoning, unclosed.content) == ("A\nB", "")
    assert split_reply('<details type="reasoning" done="true"').content == '<details type="reasoning" done="true"'
    first = '<details type="reasoning" duration="1">\n> A\n</details>\nB\n'
    reply = split_reply(first + '<details type="reasoning" duration="2">\nC\n</details>\nD')
    assert (reply.reasoning, reply.content, reply.seconds) == ("A\n\nC", "B\nD", 3.0)


def test_answers_that_failed_keep_their_error() -> None:
    failed = {"id": "a", "parentId": None, "role": "assistant", "content": "", "error": {"content": "No model."}}
    strange = {"id": "b", "parentId": "a", "role": "critic", "content": "Well done."}
    messages = {"a": failed, "b": strange, "c": {"id": "c", "parentId": "b", "role": "tool", "content": "3"}}
    result = import_file("x.json", json_bytes([{"chat": {"history": {"messages": messages}}}]))
    assert only(result).path()[0].extra["error"] == "No model."
    assert only(result).path()[1].extra["tool_calls"] == [{"result": "3"}]
    assert "could not be read: 1" in problems(result)
