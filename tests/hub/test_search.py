"""Searching a hub for GGUF repositories, whatever it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from modules.hub.client import HubClient
from modules.hub.errors import MirrorUnreachable, RateLimited, SearchUnavailable, ServerFault
from modules.hub.mirrors import Mirrors
from modules.hub.search import LIMIT, MAX_QUERY, FoundRepository, read_results, search_path
from tests.support.hub_server import HubServer

UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as started:
        for name in ("Qwen/Qwen3-8B-GGUF", "Qwen/Qwen3-4B-GGUF", "other/llama-GGUF"):
            started.add(name, {"a-Q4_K_M.gguf": b"x"})
        started.add("Qwen/Qwen3-8B", {"model.safetensors": b"x"})
        popular = started.repos["Qwen/Qwen3-4B-GGUF"]
        popular.downloads, popular.likes = 70_000, 12
        popular.gguf = {"total": 4_022_468_096, "architecture": "qwen3", "context_length": 40_960}
        yield started


@pytest.fixture
def client(hub: HubServer) -> Iterator[HubClient]:
    client = HubClient(hub.url)
    yield client
    client.close()


def test_repositories_of_gguf_files_are_found_the_most_downloaded_first(client: HubClient) -> None:
    assert client.search("qwen3 gguf") == (
        FoundRepository("Qwen/Qwen3-4B-GGUF", 70_000, 12, 4_022_468_096, 40_960, "2026-01-01"),
        FoundRepository("Qwen/Qwen3-8B-GGUF", updated="2026-01-01"),
    )


def test_nothing_found_is_no_error(client: HubClient) -> None:
    assert client.search("no such model") == ()


def test_the_text_is_quoted_and_cut() -> None:
    query = parse_qs(urlsplit(search_path(" a&b=c #/?é中 " + "x" * 500)).query)
    assert query["search"] == [("a&b=c #/?é中 " + "x" * 500)[:MAX_QUERY]]
    assert query["filter"] == ["gguf"] and query["limit"] == [str(LIMIT)]


def test_a_hub_without_search_says_so(hub: HubServer, client: HubClient, subtests: pytest.Subtests) -> None:
    answers = [
        {"status": 404, "body": b"not found"},
        {"status": 403, "body": b"invalid request"},
        {"status": 400, "body": b"{}"},
        {"body": b"<html></html>", "headers": {"Content-Type": "text/html"}},
        {"body": b"{}"},
        {"body": b"null"},
        {"body": b"[broken"},
    ]
    for answer in answers:
        with subtests.test(answer=answer):
            fault = hub.fault("api/models", **{"headers": {"Content-Type": "application/json"}, **answer})
            with pytest.raises(SearchUnavailable, match="offers no search"):
                client.search("x")
            hub.faults.remove(fault)
    hub.searchable = False
    with pytest.raises(SearchUnavailable):
        client.search("x")


def test_a_temporary_failure_is_reported_as_such(hub: HubServer, client: HubClient) -> None:
    fault = hub.fault("api/models", status=503)
    with pytest.raises(ServerFault):
        client.search("x")
    hub.faults.remove(fault)
    hub.fault("api/models", status=429, headers={"Retry-After": "5"})
    with pytest.raises(RateLimited):
        client.search("x")


def test_hostile_answers_lose_what_is_invalid() -> None:
    good = {"id": "user/model", "downloads": 5}
    hostile: list[object] = [
        None,
        5,
        "user/model",
        [],
        {},
        {"id": None},
        {"id": ["user/model"]},
        {"id": "../../etc/passwd"},
        {"id": "<script>alert(1)</script>"},
        {"id": "user/model\n"},
        {"id": "https://huggingface.co/user/model"},
    ]
    assert read_results([*hostile, good]) == (FoundRepository("user/model", 5),)
    odd = {"id": "user/model", "downloads": -1, "likes": True, "gguf": 5, "lastModified": "<b>", "gated": "auto"}
    assert read_results([odd]) == (FoundRepository("user/model", gated=True),)
    huge = {"id": "user/model", "downloads": 10**30, "gguf": {"total": "8B", "context_length": 1.5}}
    assert read_results([huge]) == (FoundRepository("user/model"),)
    assert len(read_results(json.loads(json.dumps([good] * 1000)))) == LIMIT


def test_the_next_endpoint_is_searched_if_one_cannot(hub: HubServer) -> None:
    found = Mirrors(f"{UNREACHABLE},{hub.url}", lambda: "").search("llama")
    assert [repository.name for repository in found] == ["other/llama-GGUF"]
    with pytest.raises(MirrorUnreachable):
        Mirrors(UNREACHABLE, lambda: "").search("llama")
    hub.searchable = False
    with pytest.raises(SearchUnavailable):
        Mirrors(f"{UNREACHABLE},{hub.url}", lambda: "").search("llama")
