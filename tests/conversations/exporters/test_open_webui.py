"""An export for Open WebUI has the shape of its own exports, and comes back through our import."""

from __future__ import annotations

import dataclasses
import json
import random

from modules.conversations.blobs import BlobStore
from modules.conversations.conversation import Conversation
from modules.conversations.exporters.open_webui import to_open_webui
from modules.conversations.importers.detect import import_file
from tests.conversations.exporters.conversations import random_conversation, reader, with_attachments
from tests.conversations.importers.samples import PNG, PNG_URI, json_bytes, only, own

NOTHING = reader(BlobStore(None))


def comparable(conversation: Conversation) -> object:
    """Return what must survive: the tree with all texts, thoughts and times, and what is shown of it."""
    messages = {
        id: dataclasses.replace(message, receipt=None, extra={"model": message.extra.get("model")})
        for id, message in conversation.messages.items()
    }
    versions = {id: conversation.children(id) for id in ("", *messages)}
    return (messages, versions, conversation.current, conversation.system, conversation.title, conversation.created)


def test_links_point_both_ways_and_the_shown_path_is_a_list_as_well() -> None:
    conversation = own()
    ((entry),) = to_open_webui(conversation, NOTHING)
    history = entry["chat"]["history"]
    assert history["currentId"] == conversation.current
    for id, message in history["messages"].items():
        assert message["id"] == id
        assert all(history["messages"][child]["parentId"] == id for child in message["childrenIds"])
    assert entry["chat"]["messages"][0]["content"] == "What is a goose?"
    assert entry["chat"]["models"] == ["qwen3", "llama3"]
    assert (entry["title"], entry["created_at"], entry["chat"]["params"]) == (
        "Geese 鹅",
        1714737600,
        {"system": "Be brief."},
    )


def test_thoughts_are_a_part_of_the_text_as_open_webui_writes_them() -> None:
    conversation = Conversation("x")
    conversation.add("assistant", "A bird.", reasoning="One.\n</details>", reasoning_seconds=2.0)
    (entry,) = to_open_webui(conversation, NOTHING)
    assert entry["chat"]["messages"][0]["content"] == (
        '<details type="reasoning" done="true" duration="2">\n<summary>Thought for 2 seconds</summary>\n'
        "&gt; One.\n&gt; &lt;/details&gt;\n</details>\nA bird."
    )


def test_random_trees_come_back_through_our_import() -> None:
    generator = random.Random(18)
    for _ in range(60):
        conversation = random_conversation(generator)
        data = json.dumps(to_open_webui(conversation, NOTHING)).encode()
        assert comparable(only(import_file("export.json", data))) == comparable(conversation)


def test_attachments_are_embedded() -> None:
    blobs = BlobStore(None)
    conversation = with_attachments(blobs)
    chats = to_open_webui(conversation, reader(blobs))
    files = chats[0]["chat"]["messages"][-2]["files"]
    assert (files[0]["file"]["data"]["content"], files[1]["url"]) == ("goose, swan", PNG_URI)
    result = import_file("export.json", json_bytes(chats))
    assert only(result).path()[-2].attachments == conversation.path()[-2].attachments
    assert PNG in result.files.values()


def test_calls_of_tools_are_exported_with_the_answer() -> None:
    calls = [{"id": "t1", "function": {"name": "look_up", "arguments": "{}"}}]
    conversation = Conversation("x")
    conversation.add("assistant", "A bird.", extra={"tool_calls": calls})
    conversation.add("assistant", "A goose.")
    with_calls, without = to_open_webui(conversation, NOTHING)[0]["chat"]["messages"]
    assert with_calls["tool_calls"] == calls and "tool_calls" not in without
