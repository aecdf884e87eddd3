"""Engines for vectors and scores have one base, which is tested on an engine whose tokens are letters."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.embedding_errors import CannotGenerate, ForeignTokens, InputTooLong
from modules.core.errors import OptionError
from modules.core.events import Info
from modules.engines.embedding_engine import EmbeddingEngine, Encoded, normalized, packed

BEGIN, END = 1, 2


class Letters(EmbeddingEngine):
    """Tokens are code points between BEGIN and END, vectors the first letters of a text, scores its length."""

    longest = 8
    prompts = {"query": "q:", "none": ""}

    def __init__(self, task: str = "embed", may_shorten: bool = False, special: bool = True) -> None:
        self.name = "letters"
        self.info = Info(8, vocabulary_size=200, task=task, dimensions=4, may_shorten=may_shorten)
        self._special = special
        self.questions = {"encode": lambda text: self.encode(text), "decode": self._decode}
        self.operations = self.task_operations()

    def _decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens)).lower()  # as tokenizers that do not give every text back

    def encode(self, text: str) -> list[int]:
        letters = [ord(letter) for letter in text]
        return [BEGIN, *letters, END] if self._special else letters

    def encode_pair(self, query: str, document: str) -> Encoded:
        return Encoded(self.encode(query + document))

    def compute(self, texts: Sequence[Encoded]) -> NDArray[np.float32]:
        if self.info.task == "rank":
            return np.array([[len(text.tokens)] for text in texts], np.float32)
        return np.array([([*text.tokens, 0, 0, 0, 0])[:4] for text in texts], np.float32)


def vectors(answer: Any) -> list[NDArray[np.float32]]:
    return [np.frombuffer(base64.b64decode(vector), "<f4") for vector in answer["vectors"]]


def test_vectors_have_the_length_1_and_tokens_are_counted() -> None:
    answer = Letters().embed(["ab", "c"])
    assert answer["tokens"] == 7
    first, second = vectors(answer)
    expected = np.array([BEGIN, 97, 98, END])
    assert np.allclose(first, expected / np.linalg.norm(expected))
    assert np.isclose(np.linalg.norm(second), 1)


def test_a_vector_is_cut_before_it_is_normalized() -> None:
    (vector,) = vectors(Letters(may_shorten=True).embed(["ab"], dimensions=2))
    assert np.allclose(vector, np.array([BEGIN, 97]) / np.hypot(BEGIN, 97))


def test_dimensions_are_refused_unless_the_model_may_be_shortened() -> None:
    with pytest.raises(OptionError, match="not trained to give shorter vectors"):
        Letters().embed(["a"], dimensions=2)
    with pytest.raises(OptionError, match="from 1 to 4"):
        Letters(may_shorten=True).embed(["a"], dimensions=5)
    assert len(vectors(Letters().embed(["a"], dimensions=4))[0]) == 4


def test_a_zero_vector_stays() -> None:
    assert not normalized(np.zeros((1, 3), np.float32)).any()


def test_a_text_that_is_too_long_is_named() -> None:
    with pytest.raises(InputTooLong, match=r"input\[11\] has 9 tokens, but the model takes at most 8"):
        Letters().embed(["a", "abcdefg"], first=10)
    with pytest.raises(InputTooLong, match=r"documents\[0\] \+ query has 9"):
        Letters("rank").rank("abcd", ["efg"])


def test_a_text_without_tokens_is_refused() -> None:
    for empty in ("", []):
        with pytest.raises(OptionError, match=r"input\[0\]"):
            Letters(special=False).embed([empty])


def test_a_text_that_cannot_fit_is_not_tokenized() -> None:
    with pytest.raises(InputTooLong, match=r"input\[0\]"):
        Letters().embed(["a" * 8 * 257])


def test_tokens_count_as_they_are_if_the_tokenizer_would_write_them() -> None:
    (vector,), (same,) = (vectors(Letters().embed([tokens])) for tokens in ("ab", [BEGIN, 97, 98, END]))
    assert np.array_equal(vector, same)


def test_numbers_of_another_tokenizer_are_refused_by_the_option_that_avoids_them(subtests: pytest.Subtests) -> None:
    for tokens in ([97, 98], [BEGIN, 97], [97, END], [], [BEGIN], [BEGIN, 200, END]):
        with subtests.test(tokens=tokens), pytest.raises(ForeignTokens, match="check_embedding_ctx_length=False"):
            Letters().embed([tokens])


def test_without_special_tokens_the_text_of_the_tokens_tells_whose_they_are() -> None:
    engine = Letters(special=False)
    assert engine.embed([[97, 98]])["tokens"] == 2
    with pytest.raises(ForeignTokens):
        engine.embed([[65, 66]])


def test_a_prompt_of_the_model_precedes_the_text() -> None:
    engine = Letters()
    assert engine.embed(["a"], prompt="query")["tokens"] == 5
    engine.default_prompt = "query"
    assert engine.embed(["a"])["tokens"] == 5
    assert engine.embed(["a"], prompt="none")["tokens"] == 3
    with pytest.raises(OptionError, match="one of none, query"):
        engine.embed(["a"], prompt="document")


def test_scores_are_in_the_order_of_the_documents() -> None:
    answer = Letters("rank").operations["rank"](query="ab", documents=["abc", "", "a"])
    assert answer == {"scores": [7.0, 4.0, 5.0], "tokens": 16}


def test_it_has_the_operation_of_its_task_alone_and_generates_nothing() -> None:
    assert list(Letters().operations) == ["embed"]
    assert list(Letters("rank").operations) == ["rank"]
    with pytest.raises(CannotGenerate, match="letters is an embedding model"):
        next(Letters().generate([1], {}))


def test_texts_are_packed_by_length_within_the_limits() -> None:
    texts = [Encoded([0] * length) for length in (5, 1, 9, 2, 2)]
    groups = list(packed(texts, lambda group: sum(len(text.tokens) for text in group), capacity=5, most=2))
    assert groups == [[1, 3], [4], [0], [2]]
