"""Prompts on their way to a worker: texts that may take each other's place, told by their differences."""

from __future__ import annotations

import json
import random

from modules.core.prompt import Prompt, Replacement


def test_a_replacement_makes_the_new_text_of_the_old_one() -> None:
    pairs = [("", ""), ("", "new"), ("old", ""), ("same", "same"), ("aaaa", "aa"), ("aa", "aaaa"), ("abcab", "ab")]
    for old, new in pairs:
        assert Replacement.between(old, new).apply(old) == new, (old, new)


def test_random_texts_of_few_letters_survive_too() -> None:
    letters = random.Random(3)
    for _ in range(2000):
        old, new = ("".join(letters.choices("ab", k=letters.randrange(9))) for _ in range(2))
        assert Replacement.between(old, new).apply(old) == new, (old, new)


def test_what_both_texts_share_is_not_told_again() -> None:
    old = "system: be brief\n" + "user: one\n" * 100 + "user: two\nanswer:"
    change = Replacement.between(old, "system: be brief\nuser: two\nanswer:")
    assert change.text == ""


def test_a_prompt_survives_the_way_to_the_worker() -> None:
    prompt = Prompt("system\nuser 一\nuser two", 12, False, (Replacement(7, 14, ""), Replacement(0, 14, "x")))
    assert Prompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt
    assert [change.apply(prompt.text) for change in prompt.shorter] == ["system\nuser two", "xuser two"]
