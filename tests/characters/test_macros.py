"""Names in the texts of a character."""

from __future__ import annotations

from modules.characters.macros import fill


def test_all_spellings_of_the_original_and_of_cards_are_filled() -> None:
    assert fill("{{char}} {{user}} <BOT> <USER> {{Char}} {{USER}} <bot>", "Ann", "Bo") == "Bo Ann Bo Ann Bo Ann Bo"


def test_a_name_that_contains_a_macro_is_not_filled_again() -> None:
    assert fill("{{char}} and {{user}}", "{{char}}", "{{user}}") == "{{user}} and {{char}}"


def test_other_braces_stay() -> None:
    assert fill("{char} {{random}} < BOT >", "Ann", "Bo") == "{char} {{random}} < BOT >"
