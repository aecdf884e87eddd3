"""Requests for vectors and scores: what is accepted, how it is divided, and the form of the answers."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from modules.api.embeddings import EmbeddingRequest, RerankRequest, embedding_body, parts, rerank_body
from modules.api.limits import MAX_CHARACTERS, MAX_DOCUMENTS, MAX_INPUTS, MAX_TOKENS
from modules.core.errors import OptionError, UnknownOption

VECTOR = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()


def embedding_request(**fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"input": "a", **fields})


def rerank_request(**fields: Any) -> RerankRequest:
    return RerankRequest.model_validate({"query": "q", "documents": ["a", "b", "c"], **fields})


def test_an_input_is_a_text_or_tokens_or_several_of_them(subtests: pytest.Subtests) -> None:
    cases: list[tuple[object, object]] = [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ]
    for given, items in cases:
        with subtests.test(given=given):
            assert embedding_request(input=given).items == items


def test_other_values_are_refused_by_the_name_of_the_field(subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": ["a" * (MAX_CHARACTERS // 2 + 1)] * 2}, "input"),
        ({"input": [[1] * (MAX_TOKENS // 2 + 1)] * 2}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
    ]
    for fields, option in cases:
        with subtests.test(option=option, value=str(fields)[:60]), pytest.raises(OptionError) as caught:
            _ = embedding_request(**fields).items
        assert caught.value.option.startswith(option)


def test_unknown_fields_are_reported_and_misspelled_ones_refused() -> None:
    assert embedding_request(user="me", priority=1).ignored(strict=False) == ["priority"]
    with pytest.raises(UnknownOption, match="Did you mean 'dimensions'"):
        embedding_request(dimension=3).ignored(strict=False)
    with pytest.raises(UnknownOption):
        embedding_request(priority=1).ignored(strict=True)


def test_documents_are_texts_or_objects_with_one() -> None:
    assert rerank_request(documents=["a", {"text": "b", "id": 3}]).texts == ["a", "b"]


def test_other_documents_are_refused(subtests: pytest.Subtests) -> None:
    for documents in ([], [1], [{"title": "a"}], "a", ["a"] * (MAX_DOCUMENTS + 1), ["a" * MAX_CHARACTERS]):
        with subtests.test(documents=str(documents)[:40]), pytest.raises(OptionError, match="documents"):
            _ = rerank_request(documents=documents).texts


def test_a_long_query_counts_once_for_each_document() -> None:
    with pytest.raises(OptionError, match="documents"):
        _ = rerank_request(query="q" * (MAX_CHARACTERS // 2), documents=["a", "b", "c"]).texts


def test_a_request_is_divided_so_that_others_are_served_between() -> None:
    assert list(parts(["a"] * 40)) == [(0, ["a"] * 32), (32, ["a"] * 8)]
    long = "a" * 20_000
    assert [(first, len(group)) for first, group in parts([long, long, "a", long])] == [(0, 1), (1, 2), (3, 1)]
    assert [(first, len(group)) for first, group in parts(["a"] * 3, beside=20_000)] == [(0, 1), (1, 1), (2, 1)]
    assert [(first, len(group)) for first, group in parts([[1] * 5000, [2] * 5000])] == [(0, 1), (1, 1)]


def test_vectors_are_numbers_or_base64_as_the_client_wants() -> None:
    body = embedding_body("m", [VECTOR], 3, "float", [])
    assert body["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3} and "ignored" not in body
    assert embedding_body("m", [VECTOR], 3, "base64", ["x"])["data"][0]["embedding"] == VECTOR


def test_the_best_documents_come_first_with_their_index() -> None:
    body = rerank_body("m", rerank_request(top_n=2, return_documents=True), [0.1, 0.9, 0.5], 7, ["x"])
    assert body["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "c"}},
    ]
    assert body["ignored"] == ["x"]
    assert rerank_body("m", rerank_request(), [0.1], 7, [])["results"] == [{"index": 0, "relevance_score": 0.1}]
