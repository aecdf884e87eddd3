"""The test hub serves its files, counts the bytes it sends, and fails as configured."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.hub_server import HubServer

BIG = bytes(range(256)) * 2000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("user/model", {"config.json": b"{}", "sub/big.bin": BIG})
        yield server


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=5)


def test_a_tree_lists_sizes_and_hashes(hub: HubServer) -> None:
    commit = get(f"{hub.url}/api/models/user/model/revision/main").json()["sha"]
    listed = get(f"{hub.url}/api/models/user/model/tree/{commit}?recursive=true").json()
    entries = {entry["path"]: entry for entry in listed}
    assert entries["config.json"]["oid"] == hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert entries["sub/big.bin"]["lfs"]["oid"] == hashlib.sha256(BIG).hexdigest()
    assert entries["sub"]["type"] == "directory"


def test_a_large_file_is_on_the_cdn(hub: HubServer) -> None:
    response = get(f"{hub.url}/user/model/resolve/main/sub/big.bin")
    assert (response.content, response.history[0].headers["X-Linked-Size"]) == (BIG, str(len(BIG)))
    assert [request.origin for request in hub.log] == ["hub", "cdn"]
    assert hub.sent == len(BIG)


def test_a_range_of_a_file_is_read_from_disk(hub: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(50 << 20)
        file.write(b"here")
    hub.add("user/sparse", {"model.gguf": path})
    response = get(f"{hub.url}/user/sparse/resolve/main/model.gguf", Range=f"bytes={50 << 20}-{(50 << 20) + 3}")
    assert (response.status_code, response.content) == (206, b"here")
    assert response.headers["Content-Range"] == f"bytes {50 << 20}-{(50 << 20) + 3}/{64 << 20}"
    assert get(response.url, Range=f"bytes={64 << 20}-").status_code == 416


def test_an_old_commit_stays_after_its_branch_moved(hub: HubServer) -> None:
    old = hub.repos["user/model"].branches["main"]
    assert hub.add("user/model", {"config.json": b"[]"}) != old
    assert get(f"{hub.url}/user/model/resolve/{old}/config.json").content == b"{}"
    assert get(f"{hub.url}/user/model/resolve/main/config.json").content == b"[]"


def test_a_tree_is_paginated(hub: HubServer) -> None:
    hub.add("user/many", {f"{number}.txt": b"" for number in range(5)}, revision="refs/pr/1")
    hub.page = 2
    url, paths = f"{hub.url}/api/models/user/many/tree/refs%2Fpr%2F1?recursive=true", []
    while url:
        response = get(url)
        paths += [entry["path"] for entry in response.json()]
        url = response.links.get("next", {}).get("url", "")
    assert paths == [f"{number}.txt" for number in range(5)]
    assert len(hub.log) == 3


def test_errors_name_what_is_missing(hub: HubServer) -> None:
    def code(path: str) -> tuple[int, str]:
        response = get(hub.url + path)
        return response.status_code, response.headers.get("X-Error-Code", "")

    assert code("/api/models/user/none") == (401, "RepoNotFound")
    assert code("/api/models/user/model/revision/none") == (404, "RevisionNotFound")
    assert code("/user/model/resolve/main/none") == (404, "EntryNotFound")


def test_a_gated_file_needs_the_token(hub: HubServer) -> None:
    hub.token = "secret"
    hub.add("user/gated", {"config.json": b"{}"}, gated=True)
    url = f"{hub.url}/user/gated/resolve/main/config.json"
    assert (get(url).status_code, get(url, Authorization="Bearer secret").status_code) == (401, 200)


def test_refs_paths_info_and_siblings_are_served(hub: HubServer) -> None:
    refs = get(f"{hub.url}/api/models/user/model/refs").json()
    assert [entry["name"] for entry in refs["branches"]] == ["main"]
    url = f"{hub.url}/api/models/user/model/paths-info/main"
    assert [entry["path"] for entry in requests.post(url, json={"paths": ["config.json"]}, timeout=5).json()] == [
        "config.json"
    ]
    assert requests.post(url, data={"paths": ["sub/big.bin"]}, timeout=5).json()[0]["size"] == len(BIG)
    siblings = get(f"{hub.url}/api/models/user/model?blobs=true").json()["siblings"]
    assert siblings[1]["lfs"]["size"] == len(BIG)


def test_a_fault_applies_as_often_as_configured(hub: HubServer) -> None:
    hub.fault("config", skip=1, times=2, status=503, headers={"Retry-After": "2"})
    responses = [get(f"{hub.url}/user/model/resolve/main/config.json") for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 503, 503, 200]
    assert responses[1].headers["Retry-After"] == "2"


@pytest.mark.parametrize("fault", ["drop_after", "reset_after"])
def test_a_connection_breaks_in_the_middle(hub: HubServer, fault: str) -> None:
    hub.fault("big", origin="cdn", times=1, **{fault: 100_000})
    with pytest.raises(requests.RequestException):
        get(f"{hub.url}/user/model/resolve/main/sub/big.bin")
    assert hub.sent == 100_000
    assert get(f"{hub.url}/user/model/resolve/main/sub/big.bin").content == BIG


def test_a_stall_lasts_until_the_client_has_gone(hub: HubServer) -> None:
    hub.fault("big", origin="cdn", stall_after=1000)
    with pytest.raises(requests.RequestException):
        requests.get(f"{hub.url}/user/model/resolve/main/sub/big.bin", timeout=(1, 0.3))
    assert hub.sent == 1000


def test_the_rate_is_limited(hub: HubServer) -> None:
    hub.fault("big", origin="cdn", rate=1_000_000)
    started = time.monotonic()
    assert get(f"{hub.url}/user/model/resolve/main/sub/big.bin").content == BIG
    assert 0.4 < time.monotonic() - started < 1.5


def test_a_byte_can_be_corrupted(hub: HubServer) -> None:
    hub.fault("big", origin="cdn", corrupt=300_000)
    content = get(f"{hub.url}/user/model/resolve/main/sub/big.bin").content
    assert [offset for offset, (a, b) in enumerate(zip(content, BIG, strict=True)) if a != b] == [300_000]


def test_headers_can_be_wrong(hub: HubServer) -> None:
    url = f"{hub.url}/user/model/resolve/main/sub/big.bin"
    hub.fault("big", origin="cdn", times=1, ignore_range=True)
    assert get(url, Range="bytes=5-9").status_code == 200
    hub.fault("big", origin="cdn", times=1, chunked=True)
    response = get(url, Range="bytes=5-9")
    assert ("Content-Length" in response.headers, response.content) == (False, BIG[5:10])
    hub.fault("big", origin="cdn", times=1, headers={"ETag": None, "Content-Range": "bytes 0-4/7"})
    response = get(url, Range="bytes=5-9")
    assert ("ETag" in response.headers, response.headers["Content-Range"]) == (False, "bytes 0-4/7")
    hub.fault("big", origin="cdn", times=1, length=99, drop_after=5)
    with pytest.raises(requests.RequestException):
        get(url, Range="bytes=5-9")


def test_responses_can_be_replaced(hub: HubServer) -> None:
    url = f"{hub.url}/user/model/resolve/main/config.json"
    hub.fault("config", times=1, body=b"<html>log in</html>")
    hub.fault("config", times=1, body=json.dumps([1]).encode())
    hub.fault("config", times=1, redirect=f"{hub.cdn}/nowhere", status=308)
    assert get(url).headers["Content-Type"] == "text/html"
    assert get(url).json() == [1]
    response = get(url)
    assert (response.history[0].status_code, response.status_code) == (308, 403)


def test_links_to_the_cdn_expire(hub: HubServer) -> None:
    link = get(f"{hub.url}/user/model/resolve/main/sub/big.bin").url
    assert get(link).status_code == 200
    hub.expire_links()
    assert get(link).status_code == 403
    hub.link_seconds = 0
    assert get(f"{hub.url}/user/model/resolve/main/sub/big.bin").status_code == 403


def test_an_endpoint_may_have_a_prefix() -> None:
    with HubServer(prefix="/hf") as hub:
        hub.add("user/model", {"config.json": b"{}"})
        assert hub.url.endswith("/hf")
        assert get(f"{hub.url}/user/model/resolve/main/config.json").content == b"{}"
        assert get(f"{hub.origin}/user/model/resolve/main/config.json").status_code == 404


def test_closing_ends_all_threads_and_connections(hub: HubServer) -> None:
    with HubServer() as server:
        server.add("user/model", {"big": BIG})
        server.fault("big", origin="cdn", stall_after=1)
        with requests.get(f"{server.url}/user/model/resolve/main/big", stream=True, timeout=5) as response:
            next(response.iter_content(1))
    with pytest.raises(requests.ConnectionError):
        get(f"{server.url}/user/model/resolve/main/big")


def test_huggingface_hub_can_use_it(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An independent client accepts the server that our client is tested with."""
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    api = HfApi(endpoint=hub.url, token=False)
    commit = hub.repos["user/model"].branches["main"]
    assert api.model_info("user/model").sha == commit
    hub.page, hub.next_origin = 1, hub.url
    assert {entry.path for entry in api.list_repo_tree("user/model", recursive=True)} == {
        "config.json",
        "sub",
        "sub/big.bin",
    }
    assert [entry.name for entry in api.list_repo_refs("user/model").branches] == ["main"]
    assert api.get_paths_info("user/model", ["config.json"])[0].size == 2  # type: ignore[union-attr]
    api.snapshot_download("user/model", local_dir=tmp_path)
    assert (tmp_path / "sub" / "big.bin").read_bytes() == BIG
    assert not api.verify_repo_checksums("user/model", local_dir=tmp_path).mismatches
    hub.add("user/gated", {"config.json": b"{}"}, gated=True)
    for name, file, revision, error in (
        ("user/none", "x", "main", RepositoryNotFoundError),
        ("user/model", "x", "none", RevisionNotFoundError),
        ("user/model", "x", "main", EntryNotFoundError),
        ("user/gated", "config.json", "main", GatedRepoError),
    ):
        with pytest.raises(error):
            api.hf_hub_download(name, file, revision=revision, local_dir=tmp_path / "other")
