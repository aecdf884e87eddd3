"""Exports of ChatGPT: hidden nodes are not shown, and what belongs to an answer goes to it."""

from __future__ import annotations

from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import (
    CHATGPT,
    PNG,
    archive,
    chatgpt_node,
    imported,
    json_bytes,
    only,
    problems,
    texts,
)


def test_the_current_branch_is_shown_without_hidden_nodes() -> None:
    conversation = imported(CHATGPT)
    assert texts(conversation) == [("user", "Will it rain?"), ("assistant", "Yes, at 6.")]
    assert [conversation.messages[id].content for id in conversation.versions(conversation.current)] == [
        "Perhaps.",
        "Yes, at 6.",
    ]
    assert (conversation.title, conversation.created, conversation.updated) == ("Weather", 1710000000.5, 1710000200.25)
    assert conversation.extra["custom_instructions"] == {"user_profile": "I like geese."}
    assert conversation.system == ""


def test_thoughts_and_tool_calls_go_to_the_answer_after_them() -> None:
    result = import_file("conversations.json", json_bytes(CHATGPT))
    answer = only(result).path()[-1]
    assert (answer.reasoning, answer.reasoning_seconds) == ("**Looking up**\n\nThe sky is grey.", 8.0)
    assert answer.extra == {
        "model": "gpt-5",
        "tool_calls": [
            {"recipient": "web.search", "kind": "code", "text": '{"q": "rain"}'},
            {"name": "web", "kind": "execution_output", "text": "Rain at 6."},
        ],
    }
    assert "tool calls and results that are kept in the file but not shown: 2" in problems(result)
    assert "images or attachments that the file does not contain: 2" in problems(result)


def test_images_are_found_in_the_archive() -> None:
    files = {"conversations.json": json_bytes(CHATGPT), "user.json": b"{}", "dalle/file-Sky-sky.png": PNG}
    result = import_file("export.zip", archive(files))
    (image,) = only(result).path()[0].attachments
    assert (image.kind, result.files[image.sha256]) == ("image", PNG)
    assert "does not contain: 1" in problems(result), "the PDF"
    assert "user.json" not in problems(result)


def test_a_conversation_that_ends_in_a_tool_call_keeps_it() -> None:
    nodes = {
        "q": chatgpt_node(None, "user", "Draw a goose.", "call"),
        "call": chatgpt_node("q", "assistant", "a goose", recipient="dalle.text2im"),
    }
    conversation = imported([{"title": "Goose", "mapping": nodes, "current_node": "call"}])
    assert texts(conversation) == [("user", "Draw a goose."), ("assistant", "")]
    assert conversation.path()[-1].extra["tool_calls"] == [
        {"recipient": "dalle.text2im", "kind": "text", "text": "a goose"}
    ]


def test_code_for_the_reader_is_shown_as_code() -> None:
    code = {"content_type": "code", "language": "python", "text": "print(1)"}
    conversation = imported([{"mapping": {"a": chatgpt_node(None, "assistant", code)}}])
    assert texts(conversation) == [("assistant", "```python\nprint(1)\n```")]


def test_hidden_messages_with_a_text_are_reported() -> None:
    hidden = {"is_visually_hidden_from_conversation": True}
    nodes = {"a": chatgpt_node(None, "user", "secret", "b", metadata=hidden), "b": chatgpt_node("a", "user", "Hello")}
    result = import_file("x.json", json_bytes([{"mapping": nodes}]))
    assert texts(only(result)) == [("user", "Hello")]
    assert "the other program does not show them either: 1" in problems(result)


def test_text_files_of_a_question_are_found_in_the_archive() -> None:
    attachments = [{"id": "file-A", "name": "birds.csv"}, {"id": "file-B", "name": "birds.pdf"}]
    nodes = {"a": chatgpt_node(None, "user", "Read it.", metadata={"attachments": attachments})}
    files = {"conversations.json": json_bytes([{"mapping": nodes}]), "file-A-birds.csv": "鹅,3".encode()}
    result = import_file("export.zip", archive(files))
    (file,) = only(result).path()[0].attachments
    assert (file.name, file.kind, file.text) == ("birds.csv", "text", "鹅,3")
    assert "does not contain: 1" in problems(result), "the PDF"


def test_instructions_and_thoughts_of_earlier_and_later_exports_are_kept() -> None:
    context = {"about_user_message": "I like geese."}
    instructions = {"is_user_system_message": True, "user_context_message_data": context}
    nodes = {
        "a": chatgpt_node(None, "system", "", "b", metadata=instructions),
        "b": chatgpt_node("a", "assistant", "Hm.", "c", channel="analysis"),
        "c": chatgpt_node("b", "assistant", "Hi.", "d"),
        "d": chatgpt_node("c", "critic", "Well done."),
    }
    result = import_file("x.json", json_bytes([{"mapping": nodes}]))
    assert only(result).extra["custom_instructions"] == context
    assert only(result).path()[0].reasoning == "Hm."
    assert "could not be read: 1" in problems(result), "a role that is not known"


def test_parts_that_are_no_texts_or_pictures_are_counted() -> None:
    spoken = {"content_type": "real_time_user_audio_video_asset_pointer", "audio_asset_pointer": {"format": "wav"}}
    content = {"content_type": "multimodal_text", "parts": ["Listen.", spoken, 5, None]}
    result = import_file("x.json", json_bytes([{"mapping": {"a": chatgpt_node(None, "user", content)}}]))
    assert texts(only(result)) == [("user", "Listen.")]
    assert "does not contain: 1" in problems(result), "the recording"
    assert "could not be read: 1" in problems(result), "the number"


def test_a_file_that_is_no_picture_is_not_attached_as_one() -> None:
    files = {"conversations.json": json_bytes(CHATGPT), "dalle/file-Sky-sky.png": b"<html>not found</html>"}
    result = import_file("export.zip", archive(files))
    assert only(result).path()[0].attachments == () and result.files == {}
    assert "does not contain: 2" in problems(result), "the picture and the PDF"
