"""Histories of the original, of 2023, 2024 and version 4, show every message and are exported with equal rows.

The histories have the form in which the original's own functions save them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from modules.conversations.conversation import Conversation
from modules.conversations.file_format import FormatProblem, from_json, to_bytes
from modules.conversations.original import GREETING, format_timestamp, parse, parse_timestamp, texts, to_original
from modules.conversations.store import ConversationStore
from modules.core.events import Json

THEN = "May 03, 2026 14:05"
PICTURE = b"\x89PNG fake"
TOOLS = [
    {"content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
]
IMAGE = {
    "name": "x.png",
    "type": "image",
    "image_data": f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}",
    "image_id": 1,
}
FILES = [
    IMAGE,
    {"name": "x.md", "type": "text/plain", "content": "# 标题\n"},
    {"name": "x.pdf", "type": "application/pdf", "content": "page"},
    {"name": "Page", "type": "text/html", "url": "https://example.org/", "content": "found"},
]


def version(content: str, visible: str | None = None, **more: Json) -> Json:
    return {"content": content, "visible_content": content if visible is None else visible, "timestamp": THEN} | more


VERSION_4 = {
    "internal": [
        [GREETING, "Hi <b>&"],
        ["What's 1 < 2?", 'second "answer"'],
        ["", "another reply in a row"],
        ["edited", "a4"],
        ["not answered", ""],
        ["q6", "<think>hm\n</think>\n\na6"],
    ],
    "visible": [
        ["", "Hi &lt;b&gt;&amp;"],
        ["What&#x27;s 1 &lt; 2?", "zweite „Antwort“"],
        ["", "another reply in a row"],
        ["edited", "a4"],
        ["not answered", ""],
        ["q6", "&lt;think&gt;hm\n&lt;/think&gt;\n\na6"],
    ],
    "metadata": {
        "assistant_0": {"timestamp": THEN},
        "user_1": {"timestamp": THEN, "attachments": FILES},
        "assistant_1": {
            "timestamp": THEN,
            "versions": [
                version("first"),
                version('second "answer"', "zweite „Antwort“", tool_sequence=TOOLS),
                version("third"),
            ],
            "current_version_index": 1,
            "tool_sequence": TOOLS,
        },
        "assistant_2": {"timestamp": THEN},
        "user_3": {"timestamp": THEN, "versions": [version("q4"), version("edited")], "current_version_index": 1},
        "assistant_3": {"timestamp": THEN, "model_name": "m.gguf"},
        "user_4": {"timestamp": THEN},
        "user_5": {"timestamp": THEN},
        "assistant_5": {"timestamp": THEN, "model_name": "m.gguf", "tool_sequence": TOOLS},
    },
}
THOUGHTS = {
    "<think>\na\n</think>\n\nb": ("a", "b"),
    "<think>a</think>b": ("a", "b"),
    " <think>a": ("a", ""),
    "a\n</think>\n\nb": ("a", "b"),
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b": ("a", "b"),
    "<think></think>b": ("", "<think></think>b"),
    "a `</think>` b": ("", "a `</think>` b"),
    "a</think>": ("", "a</think>"),
    "b <think>a</think>c": ("", "b <think>a</think>c"),
}
ROWS = {
    "empty": [],
    "a greeting": [[GREETING, "Hello"]],
    "an empty greeting": [[GREETING, ""], ["q", "a"]],
    "an answer to nothing": [["", "Hello"], ["q", "a"]],
    "two answers in a row": [["q", "a"], ["", "b"], ["", "c"]],
    "two questions in a row": [["q", ""], ["r", "b"]],
    "an answer in the next row": [["q", ""], ["", "b"]],
    "a greeting in the middle": [["q", "a"], [GREETING, "Hello"]],
    "empty rows": [["", ""], ["q", "a"], ["", ""], ["", ""]],
    "thoughts": [["q", text] for text in THOUGHTS],
}


class Blobs(dict[str, bytes]):
    def put(self, content: bytes) -> str:
        self[hashlib.sha256(content).hexdigest()] = content
        return hashlib.sha256(content).hexdigest()


def read(data: Json, blobs: Blobs) -> Conversation:
    made = Conversation("id")
    parse(made, data, blobs.put)
    return from_json("id", json.loads(to_bytes(made)))


def written(rows: Json, blobs: Blobs) -> Json:
    return to_original(read({"internal": rows, "visible": rows}, blobs), blobs.__getitem__)


def test_version_4_is_shown_and_exported_as_it_was() -> None:
    blobs = Blobs()
    made = read(VERSION_4, blobs)
    assert [message.content for message in made.path()] == [
        "Hi <b>&", "What's 1 < 2?", 'second "answer"', "another reply in a row", "edited", "a4", "not answered", "q6",
        "a6",
    ]  # fmt: skip
    assert made.path()[-1].reasoning == "hm"
    assert to_original(made, blobs.__getitem__) == VERSION_4


def test_versions_are_siblings_and_what_follows_belongs_to_the_current_one() -> None:
    made = read(VERSION_4, Blobs())
    answer = made.path()[2]
    _, second, third = made.versions(answer.id)
    assert second == answer.id and len(made.path()) == 9
    made.select(third)
    assert [message.content for message in made.path()][2:] == ["third"]
    made.select(second)
    assert len(made.path()) == 9
    assert [made.messages[id].content for id in made.versions(made.path()[4].id)] == ["q4", "edited"]


def test_attachments_are_stored_once_with_their_text() -> None:
    blobs = Blobs()
    image, markdown, pdf, page = read(VERSION_4, blobs).path()[1].attachments
    assert (image.name, image.kind, image.size, image.text) == ("x.png", "image", len(PICTURE), "")
    assert blobs[image.sha256] == PICTURE
    assert (markdown.kind, markdown.text, blobs[markdown.sha256].decode()) == ("text", "# 标题\n", "# 标题\n")
    assert (
        pdf.extra["original"]["type"] == "application/pdf" and page.extra["original"]["url"] == "https://example.org/"
    )


def test_attachments_of_unknown_forms_are_kept() -> None:
    for item in (
        "text",
        {"name": "x"},
        {"name": 5, "content": "text"},
        IMAGE | {"image_data": "https://x"},
        IMAGE | {"image_data": "data:a/b;base64,?"},
    ):
        data = {"internal": [["q", "a"]], "visible": [], "metadata": {"user_0": {"attachments": [item]}}}
        made = read(data, Blobs())
        assert made.path()[0].attachments == () and made.path()[0].extra["original"]["attachments"] == [item]


def test_thoughts_are_kept_apart_from_answers(subtests: pytest.Subtests) -> None:
    for text, parts in THOUGHTS.items():
        with subtests.test(text):
            made = read({"internal": [[text, text]], "visible": []}, Blobs())
            assert (made.path()[0].reasoning, made.path()[0].content) == ("", text)
            assert (made.path()[1].reasoning, made.path()[1].content) == parts


def test_facts_of_messages_are_kept() -> None:
    made = read(VERSION_4, Blobs())
    assert made.path()[5].extra == {"original": {"model_name": "m.gguf"}}
    answer = made.path()[-1]
    assert answer.extra["original"]["tool_sequence"] == TOOLS
    assert format_timestamp(answer.created) == THEN


def test_all_rows_are_exported_as_they_were(subtests: pytest.Subtests) -> None:
    for name, rows in ROWS.items():
        with subtests.test(name):
            assert written(rows, Blobs())["internal"] == rows


def test_keys_that_mean_something_else_in_our_files_are_kept_apart() -> None:
    about = {"user_0": {"parent": 5, "role": "x", "attachments": [IMAGE | {"sha256": 1, "size": "big"}]}}
    data = {"internal": [["q", "a"]], "visible": [["q", "a"]], "metadata": about, "title": 5, "current": None}
    blobs = Blobs()
    assert to_original(read(data, blobs), blobs.__getitem__) == data


def test_a_picture_that_is_not_stored_any_more_does_not_prevent_an_export() -> None:
    exported = to_original(read(VERSION_4, Blobs()), Blobs().__getitem__)
    assert exported["internal"] == VERSION_4["internal"]
    assert exported["metadata"]["user_1"]["attachments"][0]["image_data"] == "data:image/png;base64,"


def test_histories_of_2023_and_2024_are_read(subtests: pytest.Subtests) -> None:
    rows = [["Who & why?", "Me"], ["q", "a"]]
    escaped = [["Who &amp; why?", "Me"], ["q", "a"]]
    for data in (
        {"data": rows, "data_visible": rows},
        {"data": rows},
        {"internal": rows, "visible": escaped},
        {"internal": rows, "visible": escaped, "metadata": {}},
        {"internal": rows, "visible": "damaged", "metadata": ["damaged"]},
    ):
        with subtests.test(sorted(data)):
            made = read(data, Blobs())
            assert [message.content for message in made.path()] == ["Who & why?", "Me", "q", "a"]
            exported = to_original(made, Blobs().__getitem__)
            assert exported["internal"] == rows and exported["visible"] in (rows, escaped)


def test_versions_that_disagree_with_the_row_are_kept_beside_it(subtests: pytest.Subtests) -> None:
    for index in (None, 0, 7, "1"):
        with subtests.test(repr(index)):
            about = {"versions": [version("a"), version("b"), "damaged"], "current_version_index": index}
            data = {"internal": [["q", "c"], ["r", "s"]], "visible": [], "metadata": {"assistant_0": about}}
            made = read(data, Blobs())
            contents = [made.messages[id].content for id in made.versions(made.path()[1].id)]
            assert contents == ["a", "b", "c"] and [m.content for m in made.path()] == ["q", "c", "r", "s"]


def test_a_changed_answer_is_exported_as_it_is_now() -> None:
    made = read(VERSION_4, Blobs())
    made.replace(made.path()[2].id, content="new <")
    made.replace(made.path()[-1].id, content="a6 goes on")
    exported = to_original(made, Blobs().__getitem__)
    assert exported["visible"][1][1] == "new &lt;" and exported["internal"][1][1] == "new <"
    assert exported["internal"][5][1] == "<think>\nhm\n</think>\n\na6 goes on"


def test_rows_that_are_no_pairs_of_texts_are_refused(subtests: pytest.Subtests) -> None:
    for rows in ("text", ["text"], [["a"]], [["a", "b", "c"]], [["a", None]], [{"a": "b"}]):
        with subtests.test(repr(rows)), pytest.raises(FormatProblem):
            parse(Conversation("id"), {"internal": rows}, Blobs().put)


def test_all_texts_are_found_by_a_search() -> None:
    found = texts(VERSION_4)
    assert GREETING not in found and {"first", "third", "q4", "edited", "not answered"} <= set(found)


def test_timestamps() -> None:
    assert format_timestamp(parse_timestamp(THEN)) == THEN
    for other in ("", None, 5, "Mai 03, 2026 14:05", "May 99, 9999 99:99", "May 03, 2026"):
        assert isinstance(parse_timestamp(other), float)
    assert parse_timestamp("") == 0.0


def test_a_folder_of_old_files_is_listed_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "instruct").mkdir()
    (tmp_path / "chat" / "爱丽丝").mkdir(parents=True)
    contents = {
        "instruct/20240102-03-04-05.json": json.dumps(VERSION_4, indent=4, ensure_ascii=False),
        "instruct/改名.json": json.dumps({"internal": [["q", "a"]], "visible": [["q", "a"]]}, indent=4),
        "chat/爱丽丝/20240102-03-04-05.json": json.dumps({"internal": [], "visible": [], "metadata": {}}, indent=4),
        "persistent_Bob.json": json.dumps({"data": [["", "Hi"], ["Hello Bob", "a"]], "data_visible": []}, indent=2),
        "chat_state.json": "{}",
    }
    for path, content in contents.items():
        (tmp_path / path).write_text(content)
    store = ConversationStore(tmp_path)
    shown = {summary.id: (summary.title, summary.mode, summary.character, summary.count) for summary in store.list()}
    assert shown == {
        "20240102-03-04-05": ("What's 1 < 2?", "instruct", "", 9),
        "改名": ("改名", "instruct", "", 2),
        "爱丽丝~120240102-03-04-05": ("", "chat-instruct", "爱丽丝", 0),
        "~1persistent_Bob": ("Hello Bob", "chat-instruct", "Bob", 3),
    }
    for summary in store.list():
        opened = store.read(summary.id)
        assert (opened.updated, opened.created) == (summary.updated, summary.created)
    assert {path: (tmp_path / path).read_text() for path in contents} == contents
