"""Prompts are shortened in the worker, no more than necessary, and few candidates are tokenized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from modules.core.errors import OptionError
from modules.core.prompt import Prompt, Replacement
from modules.core.worker_errors import PromptTooLong, TextTooLong
from modules.engines import prompt_fitting
from modules.engines.prompt_fitting import LONGEST_TOKEN, Fitted

BOS, CONTEXT, VOCABULARY = 1, 50, 100


def encode(text: str) -> list[int]:
    """Return BOS and one token per character."""
    return [BOS, *map(ord, text)]


def fit(prompt: Prompt, encode: Callable[[str], list[int]]) -> list[int]:
    return prompt_fitting.fit(prompt, encode, CONTEXT, VOCABULARY).tokens


def shortenable(count: int, limit: int) -> Prompt:
    """Return a prompt of `count` characters; the shorter ones lack its first character, its first two, and so on."""
    text = "".join(chr(200 + number) for number in range(count))
    return Prompt(text, limit, shorter=tuple(Replacement(0, start, "") for start in range(1, count)))


def test_a_prompt_that_fits_is_not_shortened() -> None:
    assert fit(shortenable(9, 10), encode) == encode(shortenable(9, 10).text)
    assert fit(Prompt("any length"), encode) == encode("any length")


def test_the_longest_prompt_that_fits_is_chosen() -> None:
    for count in range(2, 40):
        for limit in range(2, count + 2):
            prompt = shortenable(count, limit)
            assert fit(prompt, encode) == encode(prompt.text[-(limit - 1) :]), (count, limit)


def test_a_prompt_over_its_limit_is_shortened_to_its_target() -> None:
    def fitted(limit: int, target: int) -> tuple[int, int]:
        result = prompt_fitting.fit(
            dataclasses.replace(shortenable(20, limit), target=target), encode, CONTEXT, VOCABULARY
        )
        return len(result.tokens), result.shortened

    assert fitted(21, 15) == (21, -1), "it fits"
    assert fitted(20, 15) == (15, 5)
    assert fitted(20, 20) == (20, 0)
    for count in range(3, 40):
        for limit in range(3, count + 1):
            for target in range(2, limit):
                prompt = dataclasses.replace(shortenable(count, limit), target=target)
                assert fit(prompt, encode) == encode(prompt.text[-(target - 1) :]), (count, limit, target)


def test_if_no_prompt_reaches_the_target_the_shortest_is_taken_if_it_fits() -> None:
    prompt = Prompt("123456789", 8, target=3, shorter=(Replacement(0, 2, ""), Replacement(0, 4, "")))
    assert prompt_fitting.fit(prompt, encode, CONTEXT, VOCABULARY) == Fitted(encode("56789"), 1)
    with pytest.raises(PromptTooLong) as refused:
        fit(dataclasses.replace(prompt, limit=5), encode)
    assert (refused.value.tokens, refused.value.limit) == (6, 5)


def test_few_of_many_prompts_are_tokenized() -> None:
    encoded: list[str] = []

    def record_and_encode(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    fit(shortenable(1000, 300), record_and_encode)
    assert len(encoded) <= 12


def test_a_prompt_is_refused_with_its_length_and_the_limit() -> None:
    with pytest.raises(PromptTooLong) as refused:
        fit(Prompt("123456", 5), encode)
    assert (refused.value.tokens, refused.value.limit) == (7, 5)


def test_if_no_prompt_fits_the_error_has_the_length_of_the_shortest() -> None:
    with pytest.raises(PromptTooLong) as refused:
        fit(Prompt("123456", 3, shorter=(Replacement(0, 1, ""), Replacement(0, 3, ""))), encode)
    assert (refused.value.tokens, refused.value.limit) == (4, 3)


def test_truncating_keeps_the_last_tokens_after_bos() -> None:
    assert fit(Prompt("123456", 4, truncate=True), encode) == [BOS, *map(ord, "456")]
    assert fit(Prompt("123456", 1, truncate=True), encode) == [BOS]
    assert fit(Prompt("123", 4, truncate=True), encode) == encode("123")


def test_truncating_without_bos_keeps_the_last_tokens_up_to_the_limit() -> None:
    assert fit(Prompt("123456", 4, truncate=True), lambda text: list(map(ord, text))) == list(map(ord, "3456"))


def refuse_long_texts(text: str) -> list[int]:
    assert len(text) <= LONGEST_TOKEN * CONTEXT, "it is tokenized"
    return encode(text)


@pytest.mark.parametrize("limit", [0, CONTEXT])
def test_a_text_that_cannot_fit_is_refused_without_being_tokenized(limit: int) -> None:
    text = "a" * (LONGEST_TOKEN * CONTEXT + 1)
    with pytest.raises(TextTooLong) as refused:
        fit(Prompt(text, limit), refuse_long_texts)
    assert (refused.value.characters, refused.value.limit) == (len(text), CONTEXT)


def test_of_a_text_that_cannot_fit_only_the_shorter_ones_are_tokenized() -> None:
    text = "a" * (LONGEST_TOKEN * CONTEXT) + "end"
    shorter = (Replacement(0, 2, ""), Replacement(0, len(text) - 3, ""))
    assert fit(Prompt(text, CONTEXT, shorter=shorter), refuse_long_texts) == encode("end")


def test_only_the_end_of_a_long_text_is_tokenized_if_its_last_tokens_are_kept() -> None:
    text = "a" * (LONGEST_TOKEN * CONTEXT) + "the end"
    assert fit(Prompt(text, CONTEXT, truncate=True), refuse_long_texts) == encode(text[1 - CONTEXT :])


def test_a_prompt_of_token_ids_is_taken_as_it_is() -> None:
    assert fit(Prompt("ignored", tokens=(7, 99, 0)), refuse_long_texts) == [7, 99, 0]
    assert fit(Prompt("ignored", 3, tokens=(7, 99, 0)), refuse_long_texts) == [7, 99, 0]


def test_a_token_id_outside_the_vocabulary_is_refused_by_name() -> None:
    for token in (100, -1, 1 << 40):
        with pytest.raises(OptionError, match="token ids from 0 to 99") as refused:
            fit(Prompt("", 2, truncate=True, tokens=(token, 7, 8)), encode)
        assert (refused.value.option, refused.value.value) == ("tokens", token)


def test_the_limit_of_a_prompt_holds_for_token_ids() -> None:
    with pytest.raises(PromptTooLong) as refused:
        fit(Prompt("", 3, tokens=(BOS, 5, 6, 7), shorter=(Replacement(0, 0, ""),)), encode)
    assert (refused.value.tokens, refused.value.limit) == (4, 3)
    assert fit(Prompt("", 3, truncate=True, tokens=(BOS, 5, 6, 7)), encode) == [BOS, 6, 7]
    assert fit(Prompt("", 3, truncate=True, tokens=(4, 5, 6, 7)), encode) == [5, 6, 7]
