"""Lorebooks: which entries a conversation gets, and their format."""

from __future__ import annotations

import pytest

from modules.characters.errors import CardProblem
from modules.characters.lorebook import Lorebook, LoreEntry, read_lorebook, select, with_entries
from modules.core.events import Json


def book(*entries: dict[str, Json], **settings: Json) -> Lorebook:
    return read_lorebook({**settings, "entries": list(entries)})


def selected(lorebook: Lorebook, *texts: str) -> list[str]:
    before, after = select(lorebook, texts, lambda text: len(text.split()))
    return [entry.text for entry in before] + ["|"] + [entry.text for entry in after]


def test_an_entry_is_added_when_one_of_its_keys_is_part_of_a_recent_text() -> None:
    lore = book({"keys": ["dragon", "wyrm"], "content": "Dragons sleep."}, {"keys": ["elf"], "content": "Elves sing."})
    assert selected(lore, "A DRAGONFLY!") == ["Dragons sleep.", "|"]
    assert selected(lore, "nothing") == ["|"]


def test_keys_can_distinguish_upper_case() -> None:
    lore = book({"keys": ["Rose"], "content": "Rose is a queen.", "case_sensitive": True})
    assert selected(lore, "a rose") == ["|"]
    assert selected(lore, "Rose came") == ["Rose is a queen.", "|"]


def test_a_selective_entry_needs_a_secondary_key_as_well() -> None:
    entry: dict[str, Json] = {"keys": ["king"], "secondary_keys": ["crown"], "content": "Heavy.", "selective": True}
    assert selected(book(entry), "the king") == ["|"]
    assert selected(book(entry), "the king's crown") == ["Heavy.", "|"]
    assert selected(book({**entry, "selective": False}), "the king") == ["Heavy.", "|"]


def test_constant_entries_need_no_key_and_disabled_ones_are_never_added() -> None:
    lore = book(
        {"keys": [], "content": "Always.", "constant": True},
        {"keys": ["a"], "content": "Never.", "constant": True, "enabled": False},
    )
    assert selected(lore, "a") == ["Always.", "|"]


def test_entries_come_in_their_order_before_or_after_the_description() -> None:
    lore = book(
        {"content": "third", "constant": True, "insertion_order": 30, "position": "after_char"},
        {"content": "second", "constant": True, "insertion_order": 20},
        {"content": "first", "constant": True, "insertion_order": 10},
    )
    assert selected(lore) == ["first", "second", "|", "third"]


def test_only_the_last_messages_are_searched() -> None:
    lore = book({"keys": ["sword"], "content": "Sharp."}, scan_depth=2)
    assert selected(lore, "sword", "b", "c") == ["|"]
    assert selected(lore, "a", "sword", "c") == ["Sharp.", "|"]
    assert selected(book({"keys": ["sword"], "content": "Sharp."}, scan_depth=0), "sword") == ["|"]


def test_beyond_the_budget_entries_of_low_priority_are_left_out() -> None:
    lore = book(
        {"content": "one two", "constant": True, "priority": 1, "insertion_order": 1},
        {"content": "three four", "constant": True, "priority": 9, "insertion_order": 2},
        {"content": "five", "constant": True, "priority": 5, "insertion_order": 3},
        token_budget=3,
    )
    assert selected(lore) == ["three four", "five", "|"]


def test_entries_mention_others_only_if_the_lorebook_says_so() -> None:
    entries: list[dict[str, Json]] = [
        {"keys": ["castle"], "content": "The count lives there."},
        {"keys": ["count"], "content": "He never eats."},
    ]
    assert selected(book(*entries), "castle") == ["The count lives there.", "|"]
    assert selected(book(*entries, recursive_scanning=True), "castle") == [
        "The count lives there.",
        "He never eats.",
        "|",
    ]


def test_regular_expressions_are_not_run() -> None:
    lore = book({"keys": ["(a+)+$"], "content": "x", "use_regex": True})
    assert selected(lore, "a" * 100 + "b (a+)+$") == ["|"]


def test_decorators_are_no_part_of_the_prompt() -> None:
    assert selected(book({"content": "@@depth 4\n@@role system\nText.", "constant": True})) == ["Text.", "|"]


def test_unknown_keys_of_the_lorebook_and_its_entries_are_written_back() -> None:
    raw = {
        "name": "World",
        "x": [1],
        "entries": [{"keys": ["a"], "content": "b\r\n", "id": 7, "extensions": {"depth": 4}, "insertion_order": 100}],
    }
    assert read_lorebook(raw).to_json() == raw


def test_an_edited_entry_changes_only_what_was_edited() -> None:
    raw: dict[str, Json] = {"keys": ["a"], "content": "b", "id": 7, "probability": 50}
    lore = book(raw)
    edited = with_entries(lore, [LoreEntry(("a", "c"), "b", raw=lore.entries[0].raw)])
    assert edited is not None
    assert edited.to_json()["entries"] == [{**raw, "keys": ["a", "c"]}]


def test_a_new_entry_has_the_keys_that_cards_require() -> None:
    lore = with_entries(None, [LoreEntry(("a",), "b")])
    assert lore is not None
    entry = lore.to_json()["entries"][0]
    assert entry.keys() >= {"keys", "content", "extensions", "enabled", "insertion_order", "use_regex"}
    assert with_entries(None, []) is None


def test_what_is_not_a_lorebook_is_refused(subtests: pytest.Subtests) -> None:
    for value in ([], "x", {"entries": {}}, {"entries": [1]}, {"entries": [{}] * 10_001}):
        with subtests.test(str(value)[:20]), pytest.raises(CardProblem):
            read_lorebook(value)
