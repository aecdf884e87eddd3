"""Files are recognized by their content; whatever they contain, there is a result or a reason."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from modules.conversations.errors import ImportRefused
from modules.conversations.file_format import to_bytes
from modules.conversations.importers import context, detect
from modules.conversations.importers.detect import import_file
from modules.conversations.importers.result import ImportResult
from modules.conversations.store import ConversationStore
from modules.core.events import Json
from tests.conversations.importers import samples
from tests.conversations.importers.samples import archive, json_bytes, lines, only, own, problems, texts

FILES = {
    "own": to_bytes(own()),
    "original": json_bytes(samples.ORIGINAL),
    "open_webui": json_bytes(samples.OPEN_WEBUI),
    "open_webui_of_2023": json_bytes(samples.OPEN_WEBUI_OF_2023),
    "chatgpt": json_bytes(samples.CHATGPT),
    "llama_server": lines(samples.LLAMA_SERVER),
    "llama_server_of_2025": json_bytes(samples.LLAMA_SERVER_OF_2025),
    "silly_tavern": lines(samples.SILLY_TAVERN),
    "lm_studio": json_bytes(samples.LM_STUDIO),
    "plain": json_bytes(samples.PLAIN),
}
HOSTILE_VALUES: list[Json] = [
    None, True, 0, -1, 10**30, 1e300, "", "x", "a-2", "question", "m2", "\ud800", "</details>", "<think>", [], {},
    [[]], [{}], [None], {"": None}, {"type": "text"}, "data:image/png;base64,!", {"__proto__": 1}, ["x"] * 3,
]  # fmt: skip
ROUNDS = 60


def refusal(data: bytes, name: str = "file.json") -> str:
    with pytest.raises(ImportRefused) as caught:
        import_file(name, data)
    assert caught.value.say("zh") != caught.value.say("en")
    return str(caught.value)


def test_every_format_is_recognized_whatever_its_name(subtests: pytest.Subtests) -> None:
    for name, data in FILES.items():
        with subtests.test(name):
            assert only(import_file("upload", data)).messages
            assert only(import_file("upload", archive({"a.json": data}))).messages


def test_marked_and_utf_16_texts_are_read() -> None:
    text = json.dumps(samples.PLAIN)
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert only(import_file("a", text.encode(encoding))).title == "Plain"


def test_other_files_are_refused_with_a_reason(subtests: pytest.Subtests) -> None:
    reasons = {
        b"": "not valid JSON (line 1, column 1)",
        b"\x89PNG\r\n\x1a\n": "not a text file",
        b"Hello": "not valid JSON",
        b'{"a": 1': "not valid JSON (line 1, column 8)",
        b"[]": "its format is not known",
        b"7": "its format is not known",
        b'{"a": 1}': "its format is not known",
        b"[" * 100_000: "nested too deeply",
        b'[{"mapping": {}}]': "no conversation with a message",
        b"PK\x03\x04": "the zip archive is damaged",
        archive({}): "no conversation with a message",
    }
    for data, reason in reasons.items():
        with subtests.test(reason):
            assert reason in refusal(data)


def test_files_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((detect, "MAX_FILE_BYTES"), (detect, "MAX_BRACKETS"), (context, "MAX_MESSAGES")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 2)
            assert "Split it into smaller files" in refusal(FILES["open_webui"]).replace("; s", ". S")
    monkeypatch.setattr(context, "MAX_CONVERSATIONS", 1)
    assert "more than 1 conversations" in refusal(json_bytes(samples.OPEN_WEBUI * 2))


def test_broken_lines_and_unknown_entries_are_reported() -> None:
    result = import_file("chat.jsonl", FILES["silly_tavern"] + b"\n{broken\n")
    assert len(only(result).path()) == 4
    assert "Lines that are not valid JSON were left out: 6." in problems(result)
    result = import_file("chats.json", json_bytes([*samples.OPEN_WEBUI, {"a": 1}, 7]))
    assert "Entries in an unknown format were left out: 1." in problems(result)
    assert texts(only(result))


def test_other_files_of_an_archive_are_named() -> None:
    result = import_file("a.zip", archive({"a.json": FILES["plain"], "b.json": b"{}", "c.json": b"{", "d.txt": b""}))
    assert problems(result).splitlines()[1:] == [
        "c.json: it is not valid JSON (line 1, column 2).",
        "These files are not conversations: b.json.",
    ]


def test_the_number_of_problems_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_PROBLEMS", 2)
    result = import_file("chats.json", json_bytes(samples.OPEN_WEBUI * 5))
    assert len(result.problems) == 3


def test_imported_conversations_can_be_stored_with_their_files(tmp_path: Path) -> None:
    result = import_file("export.json", FILES["open_webui"])
    store = ConversationStore(tmp_path)
    for content in result.files.values():
        store.blobs.put(content)
    added = store.add(only(result))
    stored = ConversationStore(tmp_path).read(added.id)
    assert (stored.messages, stored.current, stored.created) == (added.messages, added.current, 1700000000.0)
    assert all(file.sha256 in store.blobs for message in stored.path() for file in message.attachments)


def test_mutated_files_have_a_result_or_a_reason(subtests: pytest.Subtests) -> None:
    for name, data in FILES.items():
        with subtests.test(name):
            generator = random.Random(name)
            values = (
                [json.loads(line) for line in data.split(b"\n")] if name in ("llama_server", "silly_tavern") else None
            )
            for _ in range(ROUNDS):
                mutated = mutate(values if values else json.loads(data), generator)
                check(lines(mutated) if values and isinstance(mutated, list) else json.dumps(mutated).encode())


def test_files_with_changed_bytes_have_a_result_or_a_reason(subtests: pytest.Subtests) -> None:
    generator = random.Random(18)
    for name, data in (
        FILES | {"archive": archive({"conversations.json": FILES["chatgpt"], "a.jsonl": FILES["plain"]})}
    ).items():
        with subtests.test(name):
            for _ in range(ROUNDS):
                changed = bytearray(data)
                for _ in range(generator.randint(1, 4)):
                    changed[generator.randrange(len(changed))] = generator.choice(b'"{}[],:0\\\n\x00\xff')
                check(bytes(changed[: generator.choice((len(changed), generator.randrange(len(changed))))]))


def check(data: bytes) -> None:
    """Import the file; a result must be whole, and writable."""
    try:
        result = import_file("file.json", data)
    except ImportRefused as refused:
        assert refused.say("en") and refused.say("zh")
        return
    check_result(result)


def check_result(result: ImportResult) -> None:
    for words in result.problems:
        assert words["en"] and words["zh"]
    for conversation in result.conversations:
        assert conversation.path()
        for message in conversation.messages.values():
            assert message.role in ("user", "assistant")
            assert message.parent in {"", *conversation.messages}
            conversation.path(message.id)
        again = json.loads(to_bytes(conversation))
        assert len(again["messages"]) == len(conversation.messages)


def mutate(value: Json, generator: random.Random) -> Json:
    """Return a copy of the value in which some parts are replaced, exchanged or missing."""
    mutated = copy.deepcopy(value)
    for _ in range(generator.randint(1, 4)):
        places = [(parent, key) for parent in containers(mutated) for key in keys(parent)]
        if not places:
            return mutated
        parent, key = generator.choice(places)
        action = generator.randrange(4)
        if action == 0:
            del parent[key]
        elif action == 1:
            other, other_key = generator.choice(places)
            if not isinstance(parent[key], dict | list) and other_key in keys(other):
                other[other_key] = parent[key]
        elif action == 2 and isinstance(parent, dict):
            parent[generator.choice(("id", "parent", "role", "content", "mapping", "chat", "x"))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(generator.choice(HOSTILE_VALUES))
    return mutated


def containers(value: Json) -> list[Json]:
    found, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list):
            found.append(item)
            pending += item.values() if isinstance(item, dict) else item
    return found


def keys(parent: Json) -> list[Json]:
    return list(parent) if isinstance(parent, dict) else list(range(len(parent)))
