"""Shortening a prompt in the worker: as much as it takes and no more, with few texts tokenized."""

from __future__ import annotations

import pytest

from modules.core.errors import PromptTooLong
from modules.core.prompt import Prompt, Replacement
from modules.engines.prompt_fitting import fit

BOS = 1


def encode(text: str) -> list[int]:
    """A token is a character, after BOS."""
    return [BOS, *map(ord, text)]


def numbered(count: int, limit: int) -> Prompt:
    """A text of `count` characters, and the same without its first one, two and so on."""
    text = "".join(chr(200 + number) for number in range(count))
    return Prompt(text, limit, shorter=tuple(Replacement(0, start, "") for start in range(1, count)))


def test_a_text_that_fits_is_taken_whole() -> None:
    assert fit(numbered(9, 10), encode) == encode(numbered(9, 10).text)
    assert fit(Prompt("any length"), encode) == encode("any length")


def test_the_longest_text_that_fits_is_taken() -> None:
    for count in range(2, 40):
        for limit in range(2, count + 2):
            prompt = numbered(count, limit)
            assert fit(prompt, encode) == encode(prompt.text[-(limit - 1) :]), (count, limit)


def test_few_of_many_texts_are_tokenized() -> None:
    encoded: list[str] = []

    def counting(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    fit(numbered(1000, 300), counting)
    assert len(encoded) <= 12


def test_a_text_is_refused_with_its_length_and_the_limit() -> None:
    with pytest.raises(PromptTooLong) as refused:
        fit(Prompt("123456", 5), encode)
    assert (refused.value.tokens, refused.value.limit) == (7, 5)


def test_if_none_fits_the_length_of_the_shortest_is_told() -> None:
    with pytest.raises(PromptTooLong) as refused:
        fit(Prompt("123456", 3, shorter=(Replacement(0, 1, ""), Replacement(0, 3, ""))), encode)
    assert (refused.value.tokens, refused.value.limit) == (4, 3)


def test_truncating_keeps_the_last_tokens_after_bos() -> None:
    assert fit(Prompt("123456", 4, truncate=True), encode) == [BOS, *map(ord, "456")]
    assert fit(Prompt("123456", 1, truncate=True), encode) == [BOS]
    assert fit(Prompt("123", 4, truncate=True), encode) == encode("123")


def test_truncating_for_a_model_without_bos_keeps_as_many() -> None:
    assert fit(Prompt("123456", 4, truncate=True), lambda text: list(map(ord, text))) == list(map(ord, "3456"))
