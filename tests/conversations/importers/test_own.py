"""Our own files, and histories of text-generation-webui."""

from __future__ import annotations

import hashlib
import json
import time

from modules.conversations.file_format import to_bytes
from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import ORIGINAL, archive, imported, json_bytes, only, own, problems, texts


def test_our_files_come_back_equal_alone_in_a_list_and_in_an_archive() -> None:
    conversation = own()
    content = to_bytes(conversation)
    conversation.id = ""
    for data in (
        content,
        b"[" + content + b"]",
        content.replace(b"\n", b"") + b"\n",
        archive({"logs/a.json": content}),
    ):
        assert only(import_file("a", data)) == conversation


def test_damaged_and_newer_files_of_ours_are_reported() -> None:
    data = json.loads(to_bytes(own()))
    newer = import_file("a.json", json_bytes(data | {"version": 99}))
    assert "newer version of the program" in problems(newer)
    damaged = import_file("a.json", json_bytes(data | {"pinned": "yes"}))
    assert problems(damaged) == "“Geese 鹅” was not imported: pinned is not true or false."
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    assert "nested too deeply" in problems(import_file("a.json", json_bytes(data | {"unknown": deep})))


def test_attachments_of_another_content_than_they_claim_are_not_taken() -> None:
    digest = hashlib.sha256(b"goose").hexdigest()
    data = json.loads(to_bytes(own()))
    contents = {"Z29vc2U=": {digest: b"goose"}, "c3dhbg==": {}, "!": {}}
    for content, expected in contents.items():
        assert import_file("a.json", json_bytes(data | {"files": {digest: content}})).files == expected


def test_a_title_that_could_not_be_typed_is_made_one_line() -> None:
    data = json.loads(to_bytes(own())) | {"title": "two\nlines " + "x" * 300}
    assert imported(data).title == "two lines " + "x" * 190


def test_histories_of_the_original_are_read_by_their_internal_texts() -> None:
    conversation = only(import_file("logs/instruct/20240503-13-00-00.json", json_bytes(ORIGINAL)))
    assert texts(conversation) == [("assistant", "Welcome!"), ("user", "1 < 2?"), ("assistant", "Yes.")]
    assert conversation.path()[-1].reasoning == "Yes."
    assert conversation.title == ""
    assert time.strftime("%H:%M", time.localtime(conversation.created)) == "13:00"


def test_histories_with_a_name_and_those_of_2023_are_read() -> None:
    result = import_file("About geese.json", json_bytes({"data": [["Hello", "Hi."]], "data_visible": [["", ""]]}))
    assert texts(only(result)) == [("user", "Hello"), ("assistant", "Hi.")]
    assert only(result).title == "About geese"
    assert "row 0 is not a pair" in problems(import_file("a.json", json_bytes({"internal": [["a"]]})))


def test_a_history_without_messages_is_not_imported_and_one_nested_too_deeply_is_reported() -> None:
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    damaged = {"internal": [["q", "a"]], "visible": [], "metadata": {"user_0": {"unknown": deep}}}
    files = {"empty.json": json_bytes({"internal": [], "visible": []}), "deep.json": json_bytes(damaged)}
    result = import_file("logs.zip", archive({**files, "good.json": json_bytes(ORIGINAL)}))
    assert only(result).title == "good"
    assert "“deep” was not imported: its values are nested too deeply." in problems(result)
