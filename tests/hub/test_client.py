"""The client of one mirror over real sockets: file lists, pagination and error responses."""

from __future__ import annotations

import json
import socket

import pytest

from modules.hub import http
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.endpoint_url import HUGGING_FACE
from modules.hub.errors import (
    AccessDenied,
    DownloadError,
    FileNotOnHub,
    MirrorUnreachable,
    NotAHub,
    ProxyUnusable,
    RateLimited,
    RepositoryNotFound,
    RevisionNotFound,
    ServerFault,
    TokenRefused,
    UnsafeName,
)
from modules.hub.file_source import HubFileSource
from modules.hub.repository import RemoteFile
from tests.support.hub_reading import BIG, FILES, REPO, find_file, read_body
from tests.support.hub_server import HubServer


def test_a_repository_is_listed_with_two_requests(served: HubServer, hub: HubClient) -> None:
    repository = hub.repository(REPO, "main")
    commit = served.repos[REPO].branches["main"]
    assert (repository.name, repository.revision, repository.commit) == (REPO, "main", commit)
    assert {file.path: file.size for file in repository.files} == {
        "config.json": 8,
        "empty.txt": 0,
        "sub/big one.bin": len(BIG),
    }
    assert find_file(repository, "sub/big one.bin").sha256 and find_file(repository, "config.json").git_oid
    assert [request.method for request in served.log] == ["GET", "GET"]


def test_files_of_a_commit_are_listed_once(served: HubServer, hub: HubClient) -> None:
    repository = hub.repository(REPO, "main")
    assert hub.repository(REPO, repository.commit).files == repository.files
    assert hub.repository(REPO, "main") == repository
    assert len(served.log) == 3


def test_a_moved_branch_is_listed_again(served: HubServer, hub: HubClient) -> None:
    before = hub.repository(REPO, "main")
    served.add(REPO, {"other.txt": b"x"})
    after = hub.repository(REPO, "main")
    assert after.commit != before.commit and [file.path for file in after.files] == ["other.txt"]


def test_a_branch_with_slashes_is_one_segment(served: HubServer, hub: HubClient) -> None:
    commit = served.add(REPO, {"a": b"1"}, revision="refs/pr/1")
    assert hub.resolve_commit(REPO, "refs/pr/1") == commit


def test_an_endpoint_may_have_a_path() -> None:
    with HubServer(prefix="/hf", page=2) as served:
        served.add(REPO, {f"{number}": b"x" for number in range(5)})
        hub = HubClient(served.url)
        repository = hub.repository(REPO, "main")
        assert len(repository.files) == 5
        assert read_body(hub.source(repository).open(repository.files[4], 0, 1)) == b"x"


@pytest.mark.parametrize("next_origin", [HUGGING_FACE, "https://evil.example", "http://127.0.0.1:1"])
def test_the_next_page_is_requested_from_the_endpoint_even_if_its_link_names_another_host(
    served: HubServer, hub: HubClient, next_origin: str
) -> None:
    """Spec test 16."""
    served.add("user/many", {f"{number:03}": b"" for number in range(25)})
    served.page, served.next_origin = 10, next_origin
    assert len(hub.repository("user/many", "main").files) == 25
    assert len(served.requests("/tree/")) == 3


@pytest.mark.parametrize(
    "link",
    [
        "</api/models/user/model/tree/x?cursor=1>; rel=next",
        "<http://[::1>; rel=next",
        "<file:///etc/passwd>; rel=next",
        "</user/model/resolve/main/x>; rel=next",
    ],
)
def test_an_invalid_or_circular_next_page_is_refused(served: HubServer, hub: HubClient, link: str) -> None:
    served.fault("/tree/", headers={"Link": link, "Content-Type": "application/json"}, body=b"[]")
    with pytest.raises(NotAHub):
        hub.repository(REPO, "main")
    assert len(served.log) <= 4


def test_a_list_of_too_many_pages_is_refused(
    served: HubServer, hub: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.hub.client.MAX_PAGES", 20)
    served.add("user/many", {f"{number}": b"" for number in range(25)})
    served.page = 1
    with pytest.raises(NotAHub, match="does not end"):
        hub.repository("user/many", "main")
    assert len(served.requests("/tree/")) == 20


def test_too_many_files_are_refused(served: HubServer, hub: HubClient) -> None:
    entry = {"type": "file", "size": 1, "oid": "a" * 40}
    body = json.dumps([{**entry, "path": f"{number}"} for number in range(20_001)]).encode()
    served.fault("/tree/", body=body)
    with pytest.raises(NotAHub, match="20,000"):
        hub.repository(REPO, "main")


def test_an_endless_response_is_aborted(served: HubServer, hub: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.hub.http.MAX_JSON_BYTES", 1 << 20)
    served.fault("/tree/", body=b"[" + b" " * (2 << 20), headers={"Content-Length": None}, drop_after=3 << 20)
    with pytest.raises(NotAHub, match="MiB"):
        hub.repository(REPO, "main")


FILE = {"type": "file", "path": "a", "size": 1, "oid": "a" * 40}
MALFORMED_LISTS = [
    {}, "x", None, 5, [[]], ["file"], [None], [{"type": "file"}], [{**FILE, "path": 5}], [{**FILE, "oid": {}}],
    [{**FILE, "lfs": "x"}], [{**FILE, "lfs": {"size": 1}}], [{**FILE, "lfs": {"oid": 7}}], [{"path": "a"}],
]  # fmt: skip


@pytest.mark.parametrize("response", MALFORMED_LISTS, ids=str)
def test_a_malformed_list_is_refused(served: HubServer, hub: HubClient, response: object) -> None:
    served.fault("/tree/", body=json.dumps(response).encode())
    with pytest.raises(NotAHub):
        hub.repository(REPO, "main")


HOSTILE_ENTRIES = [
    {"path": "../x"}, {"path": "/etc/x"}, {"path": ""}, {"path": "a\x00"}, {"size": -1}, {"size": "1"}, {"size": 1e30},
    {"size": True}, {"size": 5 << 40}, {"oid": "../../x"}, {"oid": "a" * 64}, {"oid": ""},
    {"lfs": {"oid": "../../../x", "size": 1}}, {"lfs": {"oid": "a" * 64, "size": -5}},
]  # fmt: skip


@pytest.mark.parametrize("changes", HOSTILE_ENTRIES, ids=str)
def test_a_list_with_a_hostile_entry_is_refused_as_a_whole(
    served: HubServer, hub: HubClient, changes: dict[str, object]
) -> None:
    """Spec test 13, for names, sizes and hashes."""
    served.fault("/tree/", body=json.dumps([{**FILE, "path": "fine"}, {**FILE, **changes}]).encode())
    with pytest.raises(UnsafeName):
        hub.repository(REPO, "main")


@pytest.mark.parametrize("sha", [None, 5, "", "main", "../../x", "A" * 40, "a" * 39, "a" * 40 + "\n"], ids=repr)
def test_an_invalid_commit_is_refused(served: HubServer, hub: HubClient, sha: object) -> None:
    served.fault("/revision/", body=json.dumps({"id": REPO, "sha": sha}).encode())
    with pytest.raises(NotAHub):
        hub.resolve_commit(REPO, "main")


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_missing_repository_is_reported(served: HubServer, hub: HubClient) -> None:
    with pytest.raises(RepositoryNotFound) as caught:
        hub.repository("user/none", "main")
    assert (caught.value.repo, caught.value.host) == ("user/none", served.url.removeprefix("http://"))
    served.fault("user/plain", status=404, body=b'{"error": "no"}')  # a mirror without the hub's error codes
    with pytest.raises(RepositoryNotFound):
        hub.repository("user/plain", "main")


@pytest.mark.parametrize("revision", ["mian", "f" * 40])
def test_the_error_for_a_missing_branch_lists_the_existing_ones(
    served: HubServer, hub: HubClient, revision: str
) -> None:
    served.add(REPO, {"a": b""}, revision="dev")
    with pytest.raises(RevisionNotFound) as caught:
        hub.repository(REPO, revision)
    assert (caught.value.revision, caught.value.known) == (revision, ["main", "dev"])
    assert "main, dev" in caught.value.say("zh")


def test_a_missing_branch_is_reported_even_if_the_existing_ones_cannot_be_listed(
    served: HubServer, hub: HubClient
) -> None:
    served.fault("/refs", status=500)
    with pytest.raises(RevisionNotFound) as caught:
        hub.repository(REPO, "mian")
    assert (caught.value.revision, list(caught.value.known)) == ("mian", [])


def test_a_list_that_trickles_is_given_up(served: HubServer, hub: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "JSON_SECONDS", -1.0)
    with pytest.raises(MirrorUnreachable, match="was not complete"):
        hub.repository(REPO, "main")


def test_a_proxy_that_does_not_answer_is_named_as_the_cause(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(MirrorUnreachable, match="the proxy does not work"):
        HubClient("http://mirror.example", connect_seconds=1).resolve_commit(REPO, "main")


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:9", "http://", "http://[::1", "http://用户:密码@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_named_as_the_cause(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ProxyUnusable, match="HTTP_PROXY"):
        HubClient("http://mirror.example").search("model")


def test_a_gated_repository_needs_the_token(served: HubServer, hub: HubClient) -> None:
    served.token = "hf_secret"
    served.add("user/gated", {"a": b"1"}, gated=True)
    repository = hub.repository("user/gated", "main")
    with pytest.raises(AccessDenied):
        hub.source(repository).open(repository.files[0], 0, 1)
    authorized_hub = HubClient(served.url, AccessToken("hf_secret", frozenset({hub.host})))
    assert read_body(authorized_hub.source(repository).open(repository.files[0], 0, 1)) == b"1"


def test_a_rejected_token_is_reported(served: HubServer) -> None:
    served.token = "hf_right"
    served.add(REPO, FILES, private=True)
    with pytest.raises(TokenRefused):
        HubClient(served.url, AccessToken("hf_wrong", frozenset({served.url.removeprefix("http://")}))).resolve_commit(
            REPO, "main"
        )
    with pytest.raises(RepositoryNotFound):
        HubClient(served.url).resolve_commit(REPO, "main")


def test_a_missing_file_is_reported(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    with pytest.raises(FileNotOnHub) as caught:
        source.open(RemoteFile("none.txt", 1, git_oid="a" * 40), 0, 1)
    assert (caught.value.repo, caught.value.file) == (REPO, "none.txt")


FAULTS: list[tuple[dict[str, object], type[DownloadError], str]] = [
    ({"status": 500}, ServerFault, "HTTP 500"),
    ({"status": 503}, ServerFault, "HTTP 503"),
    ({"status": 408}, ServerFault, "HTTP 408"),
    ({"status": 429, "headers": {"Retry-After": "7"}}, RateLimited, "7 s"),
    ({"status": 403}, NotAHub, "HTTP 403: at fault"),
    ({"status": 404, "body": b"<html>"}, NotAHub, "HTTP 404"),
    ({"status": 401, "body": b"<html>"}, NotAHub, "text/html"),
    ({"body": b"<!doctype html><p>log in"}, NotAHub, "text/html"),
    ({"body": b"{"}, NotAHub, "JSON"),
    ({"body": b"[" * 100_000}, NotAHub, "JSON"),
    ({"delay": 1.5}, MirrorUnreachable, "timeout"),
    ({"stall_after": 3}, MirrorUnreachable, "timeout"),
    ({"reset_after": 3}, MirrorUnreachable, "reset"),
    ({"drop_after": 3}, MirrorUnreachable, "broke"),
]


@pytest.mark.parametrize(("fault", "error", "message"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_failed_list_is_reported_with_its_cause(
    served: HubServer, hub: HubClient, fault: dict[str, object], error: type[DownloadError], message: str
) -> None:
    served.fault("/revision/", **fault)
    with pytest.raises(error) as caught:
        hub.repository(REPO, "main")
    assert message in caught.value.say("en") and hub.host in caught.value.say("zh")
    assert caught.value.transient is (error is not NotAHub)


def test_an_unreachable_mirror_is_reported() -> None:
    with socket.socket() as bound_socket:
        bound_socket.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(MirrorUnreachable, match="refused"):
            HubClient(f"http://127.0.0.1:{bound_socket.getsockname()[1]}").resolve_commit(REPO, "main")
    with pytest.raises(MirrorUnreachable, match="host name not found"):
        HubClient("https://no-such-host.invalid").resolve_commit(REPO, "main")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2),
        ({"Retry-After": "9999"}, 300),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "nonsense"}, 30),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"Retry-After": "9" * 500}, 30),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=0;t=5555'}, 300),
        ({}, 30),
    ],
    ids=str,
)
def test_retry_after_is_honored_within_limits(
    served: HubServer, hub: HubClient, headers: dict[str, str], seconds: float
) -> None:
    served.fault("/revision/", status=429, headers=headers)
    with pytest.raises(RateLimited) as caught:
        hub.resolve_commit(REPO, "main")
    assert caught.value.seconds == seconds
