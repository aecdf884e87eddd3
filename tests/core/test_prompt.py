"""Prompts sent to a worker: shorter alternatives are sent as differences from the longest text."""

from __future__ import annotations

import dataclasses
import json
import random

from modules.core.prompt import Image, Prompt, Replacement


def test_a_replacement_turns_the_old_text_into_the_new_one() -> None:
    pairs = [("", ""), ("", "new"), ("old", ""), ("same", "same"), ("aaaa", "aa"), ("aa", "aaaa"), ("abcab", "ab")]
    for old, new in pairs:
        assert Replacement.between(old, new).apply(old) == new, (old, new)


def test_replacements_between_random_texts_of_few_letters_are_correct() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        old, new = ("".join(rng.choices("ab", k=rng.randrange(9))) for _ in range(2))
        assert Replacement.between(old, new).apply(old) == new, (old, new)


def test_a_replacement_leaves_out_what_both_texts_share() -> None:
    old = "system: be brief\n" + "user: one\n" * 100 + "user: two\nanswer:"
    replacement = Replacement.between(old, "system: be brief\nuser: two\nanswer:")
    assert replacement.text == ""


def test_a_prompt_survives_serialization() -> None:
    shorter = (Replacement(7, 14, ""), Replacement(0, 14, "x"))
    images = (Image("ab", bytes(range(256))),)
    prompt = Prompt("system\nuser 一\nuser two", 12, False, shorter, target=9, tokens=(1, 49151), images=images)
    prompt = dataclasses.replace(prompt, image_text="<image>")
    sent = json.loads(json.dumps(prompt.to_json()))
    assert Prompt.from_json(sent) == prompt and Prompt.has_images(sent)
    assert not Prompt.has_images(Prompt("plain").to_json()) and not Prompt.has_images("plain")
    assert [prompt.used_text(index) for index in (-1, 0, 1)] == [prompt.text, "system\nuser two", "xuser two"]


def test_messages_survive_serialization_and_lose_the_oldest_but_not_those_of_the_system() -> None:
    messages = tuple({"role": role, "content": str(n)} for n, role in enumerate(("user", "system", "user", "user")))
    shorter = (Replacement(0, 1, ""), Replacement(0, 2, ""))
    prompt = Prompt("0123", 3, shorter=shorter, messages=messages, starts=(2, 3), continues=True)
    assert Prompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt
    used = [[message["content"] for message in prompt.used_messages(index)] for index in (-1, 0, 1)]
    assert used == [["0", "1", "2", "3"], ["1", "2", "3"], ["1", "3"]]
