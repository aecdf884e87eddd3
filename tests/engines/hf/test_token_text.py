"""Text to tokens and back with a small byte-level tokenizer."""

from __future__ import annotations

import pytest
import torch

from modules.core.errors import OptionError
from modules.core.fill_in_middle import FimTokens
from modules.engines.hf.evaluator import token_logprobs
from modules.engines.hf.token_text import Detokenizer, TextTokenizer
from tests.support.hf_vocabularies import small_tokenizer

pytestmark = pytest.mark.usefixtures("backend")

TEXT = "the year 猫🐈 é was good"


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(small_tokenizer())


def test_detokenizing_token_by_token_gives_whole_characters(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    assert len(tokens) > len(TEXT.split())
    for count in (0, 3):
        detokenizer = Detokenizer(tokenizer, tokens[:count], special=False)
        pieces = [detokenizer.feed(token) for token in tokens[count:]]
        assert "".join(piece.decode() for piece in pieces) == TEXT[len(tokenizer.decode(tokens[:count], False)) :]
        assert detokenizer.flush() == b""


def test_an_answer_begins_with_the_character_in_which_the_prompt_ends(tokenizer: TextTokenizer) -> None:
    before, cat = tokenizer.encode("the 猫"), tokenizer.encode("猫")
    assert len(cat) == 3
    for count in (1, 2):
        detokenizer = Detokenizer(tokenizer, before[: len(before) - count], special=False)
        pieces = [detokenizer.feed(token) for token in [*cat[-count:], *tokenizer.encode(" was")]]
        assert b"".join(pieces).decode() == "猫 was"
    whole = Detokenizer(tokenizer, tokenizer.encode("the \ufffd"), special=False)
    assert whole.feed(tokenizer.encode("a")[0]) == b"a", "a replacement character of the prompt is not repeated"


def test_an_incomplete_character_is_flushed_as_a_replacement_character(tokenizer: TextTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [], special=False)
    assert [detokenizer.feed(token) for token in tokenizer.encode("猫")[:2]] == [b"", b""]
    assert "\ufffd" in detokenizer.flush().decode()


def test_an_unpaired_surrogate_is_encoded_as_a_question_mark(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83d"), special=False) == "a?"


def test_a_token_outside_the_vocabulary_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(OptionError):
        tokenizer.questions["decode"]([len(tokenizer.tokenizer)])


def test_the_vocabulary_is_counted_once_for_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(small_tokenizer())
    kind = type(tokenizer.tokenizer)
    count, counted = kind.__len__, []
    monkeypatch.setattr(kind, "__len__", lambda self: counted.append(self) or count(self))
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.questions["decode"](tokens) == TEXT
    token_logprobs(tokenizer, torch.zeros(len(tokens)), 0, 5)
    assert len(counted) == 1


def test_log_probabilities_are_those_of_the_logits_best_first(tokenizer: TextTokenizer) -> None:
    logits = torch.full((len(tokenizer.tokenizer) + 2,), -100.0)
    logits[5], logits[6], logits[-1] = 1.0, 0.0, -1.0  # the last index has a logit, but is not a token
    logprobs = token_logprobs(tokenizer, logits, 6, 3)
    expected = logits.double().log_softmax(0)
    assert logprobs.chosen.text == tokenizer.decode([6], special=True)
    assert logprobs.chosen.logprob == pytest.approx(float(expected[6]), abs=1e-6)
    assert [candidate.logprob for candidate in logprobs.top] == sorted(
        [candidate.logprob for candidate in logprobs.top], reverse=True
    )
    assert logprobs.top[2].text == ""


def test_tokens_for_filling_in_the_middle_are_found_by_name() -> None:
    tokenizer = TextTokenizer(small_tokenizer())
    assert tokenizer.fim_tokens is None
    names = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    tokenizer.tokenizer.add_special_tokens({"additional_special_tokens": names})
    prefix, middle, suffix = tokenizer.tokenizer.convert_tokens_to_ids(names)
    assert tokenizer.fim_tokens == FimTokens(prefix, suffix, middle)


def test_special_tokens_of_visible_texts_are_shown(tokenizer: TextTokenizer) -> None:
    tokenizer.tokenizer.add_special_tokens({"additional_special_tokens": ["<|open|>", "<|hidden|>"]})
    answer = "<|open|>thought 猫<|hidden|> and<|open|> more"
    tokens = tokenizer.encode(answer, special=False)

    def shown(special: bool, *visible: str) -> str:
        detokenizer = Detokenizer(tokenizer, [], special, visible)
        return b"".join([*map(detokenizer.feed, tokens), detokenizer.flush()]).decode()

    assert shown(False) == "thought 猫 and more"
    assert shown(False, "<|open|>thought", "and") == "<|open|>thought 猫 and<|open|> more"
    assert shown(True, "<|open|>") == answer
