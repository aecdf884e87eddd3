"""The program's own files are read as they were written, whatever else is in them, and damaged ones are refused."""

from __future__ import annotations

import json

import pytest

from modules.conversations.conversation import ROOT, Attachment, ChatMessage, Conversation
from modules.conversations.file_format import FormatProblem, from_json, newer_version, to_bytes
from modules.core.events import Json

MESSAGE = ChatMessage(
    "m2", "m1", "assistant", 'Hi "there"\n</script>  你好 👍', "let me think", 1.5,
    (Attachment("a.md", "text", "ab" * 32, 3, "abc", {"type": "text/markdown"}),), 5.0, 6.0, True, {"seed": 7},
    {"x": 1},
)  # fmt: skip


def full() -> Conversation:
    made = Conversation(
        "id", "Title", 1.0, 2.0, 3, True, "chat", "Alice", "Bob", "Be brief.", "m1", 900, "m2", extra={"color": "red"}
    )
    made.messages = {"m1": ChatMessage("m1", ROOT, "user", ""), "m2": MESSAGE}
    made.shown = {ROOT: "m1", "m1": "m2"}
    return made


def data(**changes: Json) -> Json:
    return json.loads(to_bytes(full())) | changes


def test_a_file_has_the_whole_conversation() -> None:
    for made in (full(), Conversation("id")):
        assert from_json("id", json.loads(to_bytes(made))) == made


def test_a_message_is_one_line_and_its_empty_fields_are_left_out() -> None:
    lines = to_bytes(full()).decode().splitlines()
    assert json.loads(lines[0][:-1] + "}")["format"] == "text-studio/chat"
    assert lines[2] == '"m1":{"parent":"","role":"user","content":"","created":0.0},'


def test_numbers_may_be_whole() -> None:
    assert from_json("id", data(created=5)).created == 5.0


def test_numbers_beyond_the_range_are_refused() -> None:
    for text in ("1e999", "-1e999", "NaN", "1" + "0" * 400):
        with pytest.raises(FormatProblem):
            from_json("id", data(created=json.loads(text)))


def test_unknown_keys_are_written_back() -> None:
    changed = data(new={"a": [1]})
    changed["messages"]["m1"]["new"] = "text"
    changed["messages"]["m2"]["attachments"][0]["new"] = None
    again = json.loads(to_bytes(from_json("id", changed)))
    assert again == changed


def test_a_file_of_a_newer_version_is_recognized() -> None:
    assert newer_version(data()) is None
    assert newer_version({"internal": []}) is None
    for version in (2, "1", None, True):
        assert newer_version(data(version=version))
    assert "2" in newer_version(data(version=2))["en"]


def test_what_points_to_missing_messages_is_corrected() -> None:
    orphan = {"parent": "gone", "role": "user", "content": "orphan"}
    changed = data(current="gone", dropped_until="gone", shown={ROOT: "gone", "m1": ["m2"]})
    changed["messages"]["m3"] = orphan
    read = from_json("id", changed)
    assert read.messages["m3"].parent == ROOT and read.current == "m3" and read.dropped_until == ""
    read.select("m1")
    assert read.current == "m2"
    assert from_json("id", data(current="gone", messages={})).current == ROOT


def test_the_shown_path_is_remembered_though_the_file_does_not_say_it() -> None:
    assert from_json("id", data(shown={})).shown == full().shown


def test_damaged_files_are_refused(subtests: pytest.Subtests) -> None:
    message = {"parent": "", "role": "user", "content": ""}
    damaged = {
        "title is not a text": data(title=5),
        "rev is not a whole number": data(rev=1.5),
        "pinned is not true or false": data(pinned=1),
        "created is not a number": data(created="now"),
        "mode 'dance' is unknown": data(mode="dance"),
        "messages are not an object": data(messages=[message]),
        "messages.a is not an object": data(messages={"a": "text"}),
        "messages.a has no role": data(messages={"a": {"content": ""}}),
        "messages.a has no role or": data(messages={"a": message | {"role": "system"}}),
        "messages.a.content is not a text": data(messages={"a": message | {"content": None}}),
        "messages.a.attachments is not a list": data(messages={"a": message | {"attachments": "x"}}),
        "messages.a.attachments.is incomplete": data(messages={"a": message | {"attachments": [{"name": "x"}]}}),
        "follow themselves": data(messages={"a": message | {"parent": "b"}, "b": message | {"parent": "a"}}),
    }
    for problem, content in damaged.items():
        with subtests.test(problem):
            with pytest.raises(FormatProblem) as caught:
                from_json("id", content)
            assert problem in caught.value.words["en"] and caught.value.words["zh"]


def test_what_could_not_be_read_again_is_not_written() -> None:
    with pytest.raises(ValueError, match="dance"):
        to_bytes(Conversation("id", mode="dance"))
    made = full()
    made.add("system", "text")
    with pytest.raises(ValueError, match="system"):
        to_bytes(made)


def test_half_of_a_surrogate_pair_does_not_prevent_saving() -> None:
    made = full()
    made.add("user", "a\ud83db\U0001f44d")
    read = from_json("id", json.loads(to_bytes(made).decode()))
    assert read.path()[-1].content == "a\ufffdb\U0001f44d"
