"""Vectors and scores over the API, by tiny models with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.app import App
from tests.support.serving import Server, server_of
from tests.support.tiny_bert import HIDDEN, tiny_berts


@pytest.fixture
def server(backend: None, make_app: Callable[..., App]) -> Iterator[Server]:
    with server_of(make_app("--model-dir", str(tiny_berts()))) as running:
        yield running


def load(server: Server, model: str) -> None:
    response = server.post("/internal/model/load", {"model_name": model})
    assert response.status_code == 200, response.text


def test_embeddings_come_as_the_openai_package_asks_for_them(server: Server) -> None:
    load(server, "tiny-mean.gguf")
    texts = ["the cat sat on the mat", "dog"]
    packed = server.openai.embeddings.create(model="tiny-mean.gguf", input=texts)  # asks for base64 unasked
    plain = server.openai.embeddings.create(model="tiny-mean.gguf", input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding) and len(one.embedding) == HIDDEN
        assert sum(value * value for value in one.embedding) == pytest.approx(1)
    assert [item.index for item in plain.data] == [0, 1] and plain.model == "tiny-mean.gguf"
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == 8 + 3
    (alone,) = server.openai.embeddings.create(model="tiny-mean.gguf", input=texts[1]).data
    assert alone.embedding == pytest.approx(plain.data[1].embedding, abs=1e-4)


def test_tokens_are_those_of_the_model_itself(server: Server) -> None:
    load(server, "tiny-mean.gguf")
    tokens = server.post("/internal/encode", {"text": "the cat"}).json()["tokens"]
    by_text, by_tokens = (
        server.post("/embeddings", {"input": given}).json()["data"][0]["embedding"] for given in ("the cat", tokens)
    )
    assert by_tokens == pytest.approx(by_text, abs=1e-4)
    error = server.refusal("/embeddings", {"input": [[7, 8, 9]]})
    assert error["status"] == 400 and "check_embedding_ctx_length=False" in error["message"]
    assert "input[0]" in error["message"]


def test_what_the_model_cannot_do_is_refused(server: Server, subtests: pytest.Subtests) -> None:
    load(server, "tiny-mean.gguf")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/embeddings", {"input": ["a", "the " * 70]}, "input[1] has 72 tokens"),
        ("/embeddings", {"input": "a", "dimensions": 8}, "not trained to give shorter vectors"),
        ("/embeddings", {"input": "a", "prompt_name": "query"}, "no prompts"),
        ("/embeddings", {"input": [2, 100_000, 3]}, "check_embedding_ctx_length=False"),
        ("/embeddings", {"inputs": "a"}, "input"),
        ("/rerank", {"query": "a", "documents": ["b"]}, "does not score documents"),
        ("/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "is an embedding model"),
        ("/completions", {"prompt": "Hi"}, "is an embedding model"),
        ("/internal/logits", {"prompt": "Hi"}, "is an embedding model"),
    ]
    for path, body, message in cases:
        with subtests.test(path=path, body=str(body)[:60]):
            error = server.refusal(path, body)
            assert error["status"] == 400 and message in error["message"]
    assert server.refusal("/embeddings", {"input": "the " * 70})["code"] == "context_length_exceeded"


def test_models_of_several_tasks_answer_side_by_side(server: Server) -> None:
    load(server, "tiny-rank.gguf")
    named = server.post("/embeddings", {"input": "dog", "model": "tiny-mean.gguf", "keep_alive": 60})
    assert named.status_code == 200 and "x-model-substituted" not in named.headers
    for name in ("text-embedding-3-small", ""):  # the current model ranks
        other = server.post("/embeddings", {"input": "dog", "model": name})
        assert other.json()["data"] == named.json()["data"] and other.json()["model"] == "tiny-mean.gguf"
        assert other.headers.get("x-model-substituted", "") == name
    assert server.post("/rerank", {"query": "a", "documents": ["b"]}).json()["model"] == "tiny-rank.gguf"
    error = server.refusal("/completions", {"prompt": "Hi", "model": "gpt-9"})
    assert "tiny-rank.gguf is a reranking model" in error["message"], "none of them generates text"


def test_unknown_fields_are_reported(server: Server) -> None:
    load(server, "tiny-mean.gguf")
    response = server.post("/embeddings", {"input": "a", "user": "me", "priority": 3})
    assert response.headers["x-ignored-parameters"] == "priority" and response.json()["ignored"] == ["priority"]


def test_documents_are_ranked_at_both_paths(server: Server) -> None:
    load(server, "tiny-rank.gguf")
    documents = ["the cat sat", "dog", {"text": "paris is in france"}]
    body = {"query": "paris", "documents": documents, "top_n": 2, "return_documents": True}
    answer = server.post("/rerank", body).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2 and scores[0] > scores[1] > 0 and answer["usage"]["total_tokens"] > 12
    assert all(result["document"]["text"] for result in answer["results"])
    root = str(server.http.base_url).removesuffix("/v1/")
    assert httpx.post(f"{root}/rerank", json=body, timeout=60).json()["results"] == answer["results"]
    assert "has no embeddings" in server.refusal("/embeddings", {"input": "a"})["message"]


def test_a_model_that_generates_text_gives_no_embeddings(make_app: Callable[..., App], tiny: Path) -> None:
    with server_of(make_app("--model-dir", str(tiny.parent))) as server:
        load(server, tiny.name)
        message = server.refusal("/embeddings", {"input": "a"})["message"]
        assert f"{tiny.name} generates text" in message and "embedding model" in message
