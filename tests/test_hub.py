"""One mirror, asked over real sockets: lists, redirects, bytes, faults, and what it must not see or have us do."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.download_errors import (
    AccessDenied,
    DownloadError,
    FileNotOnHub,
    MirrorUnreachable,
    NotAHub,
    RateLimited,
    RedirectUnreachable,
    RepositoryNotFound,
    RevisionNotFound,
    ServerFault,
    Stopped,
    UnsafeName,
    WrongSize,
)
from modules.hub import Hub
from modules.hub_files import HubBody, HubSource
from modules.mirrors import HUGGING_FACE, Token
from modules.remote import RemoteFile, Repository
from tests.hub_server import Hub as Served

BIG = bytes(range(256)) * 2000
REPO = "user/model"


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as started:
        started.add(REPO, {"config.json": b'{"a": 1}', "empty.txt": b"", "sub/big one.bin": BIG})
        yield started


@pytest.fixture
def hub(served: Served) -> Iterator[Hub]:
    asked = Hub(served.url, connect_seconds=1, read_seconds=1)
    yield asked
    asked.close()


@pytest.fixture
def source(hub: Hub) -> Iterator[HubSource]:
    opened = hub.source(hub.repository(REPO, "main"))
    yield opened
    opened.close()


def big(hub: Hub) -> RemoteFile:
    return named(hub.repository(REPO, "main"), "sub/big one.bin")


def named(repository: Repository, path: str) -> RemoteFile:
    return next(file for file in repository.files if file.path == path)


def read(body: HubBody) -> bytes:
    pieces = list(body.chunks())
    assert all(0 < len(piece) <= 256 << 10 for piece in pieces)
    return b"".join(pieces)


# -- lists ----------------------------------------------------------------------------------------------------------


def test_a_repository_is_listed_with_two_requests(served: Served, hub: Hub) -> None:
    found = hub.repository(REPO, "main")
    assert (found.name, found.revision, found.commit) == (REPO, "main", served.repos[REPO].branches["main"])
    assert {file.path: file.size for file in found.files} == {
        "config.json": 8,
        "empty.txt": 0,
        "sub/big one.bin": len(BIG),
    }
    assert named(found, "sub/big one.bin").sha256 and named(found, "config.json").git_oid
    assert [each.method for each in served.log] == ["GET", "GET"]


def test_a_commit_that_is_known_is_not_listed_again(served: Served, hub: Hub) -> None:
    first = hub.repository(REPO, "main")
    assert hub.repository(REPO, first.commit).files == first.files
    assert hub.repository(REPO, "main") == first
    assert len(served.log) == 3


def test_a_branch_that_has_moved_is_listed_anew(served: Served, hub: Hub) -> None:
    old = hub.repository(REPO, "main")
    served.add(REPO, {"other.txt": b"x"})
    new = hub.repository(REPO, "main")
    assert new.commit != old.commit and [file.path for file in new.files] == ["other.txt"]


def test_a_branch_with_slashes_is_one_segment(served: Served, hub: Hub) -> None:
    commit = served.add(REPO, {"a": b"1"}, revision="refs/pr/1")
    assert hub.resolve(REPO, "refs/pr/1") == commit


def test_an_endpoint_may_have_a_path() -> None:
    with Served(prefix="/hf", page=2) as served:
        served.add(REPO, {f"{number}": b"x" for number in range(5)})
        hub = Hub(served.url)
        repository = hub.repository(REPO, "main")
        assert len(repository.files) == 5
        assert read(hub.source(repository).open(repository.files[4], 0, 1)) == b"x"


@pytest.mark.parametrize("other", [HUGGING_FACE, "https://evil.example", "http://127.0.0.1:1"])
def test_the_next_page_is_asked_of_the_endpoint_whoever_the_link_names(served: Served, hub: Hub, other: str) -> None:
    """Spec test 16."""
    served.add("user/many", {f"{number:03}": b"" for number in range(25)})
    served.page, served.next_origin = 10, other
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
def test_a_list_that_goes_nowhere_or_round_in_circles_is_refused(served: Served, hub: Hub, link: str) -> None:
    served.fault("/tree/", headers={"Link": link, "Content-Type": "application/json"}, body=b"[]")
    with pytest.raises(NotAHub):
        hub.repository(REPO, "main")
    assert len(served.log) <= 4


def test_a_list_of_ever_more_pages_is_refused(served: Served, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.hub.MOST_PAGES", 20)
    served.add("user/many", {f"{number}": b"" for number in range(25)})
    served.page = 1
    with pytest.raises(NotAHub, match="without an end"):
        hub.repository("user/many", "main")
    assert len(served.requests("/tree/")) == 20


def test_too_many_files_are_refused(served: Served, hub: Hub) -> None:
    entry = {"type": "file", "size": 1, "oid": "a" * 40}
    body = json.dumps([{**entry, "path": f"{number}"} for number in range(20_001)]).encode()
    served.fault("/tree/", body=body)
    with pytest.raises(NotAHub, match="20,000"):
        hub.repository(REPO, "main")


def test_a_list_that_never_ends_is_given_up(served: Served, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.hub_http.LARGEST_PAGE", 1 << 20)
    served.fault("/tree/", body=b"[" + b" " * (2 << 20), headers={"Content-Length": None}, drop_after=3 << 20)
    with pytest.raises(NotAHub, match="MiB"):
        hub.repository(REPO, "main")


FILE = {"type": "file", "path": "a", "size": 1, "oid": "a" * 40}
NONSENSE = [
    {}, "x", None, 5, [[]], ["file"], [None], [{"type": "file"}], [{**FILE, "path": 5}], [{**FILE, "oid": {}}],
    [{**FILE, "lfs": "x"}], [{**FILE, "lfs": {"size": 1}}], [{**FILE, "lfs": {"oid": 7}}], [{"path": "a"}],
]  # fmt: skip


@pytest.mark.parametrize("nonsense", NONSENSE, ids=str)
def test_a_list_that_is_nonsense_is_no_hubs(served: Served, hub: Hub, nonsense: object) -> None:
    served.fault("/tree/", body=json.dumps(nonsense).encode())
    with pytest.raises(NotAHub):
        hub.repository(REPO, "main")


HOSTILE = [
    {"path": "../x"}, {"path": "/etc/x"}, {"path": ""}, {"path": "a\x00"}, {"size": -1}, {"size": "1"}, {"size": 1e30},
    {"size": True}, {"size": 5 << 40}, {"oid": "../../x"}, {"oid": "a" * 64}, {"oid": ""},
    {"lfs": {"oid": "../../../x", "size": 1}}, {"lfs": {"oid": "a" * 64, "size": -5}},
]  # fmt: skip


@pytest.mark.parametrize("lie", HOSTILE, ids=str)
def test_a_list_with_a_hostile_entry_is_refused_as_a_whole(served: Served, hub: Hub, lie: dict[str, object]) -> None:
    """Spec test 13: names, sizes, hashes."""
    served.fault("/tree/", body=json.dumps([{**FILE, "path": "fine"}, {**FILE, **lie}]).encode())
    with pytest.raises(UnsafeName):
        hub.repository(REPO, "main")


@pytest.mark.parametrize("sha", [None, 5, "", "main", "../../x", "A" * 40, "a" * 39, "a" * 40 + "\n"], ids=repr)
def test_a_commit_that_is_none_is_refused(served: Served, hub: Hub, sha: object) -> None:
    served.fault("/revision/", body=json.dumps({"id": REPO, "sha": sha}).encode())
    with pytest.raises(NotAHub):
        hub.resolve(REPO, "main")


# -- what went wrong ------------------------------------------------------------------------------------------------


def test_a_repository_that_is_not_there(served: Served, hub: Hub) -> None:
    with pytest.raises(RepositoryNotFound) as caught:
        hub.repository("user/none", "main")
    assert (caught.value.repo, caught.value.host) == ("user/none", served.url.removeprefix("http://"))
    served.fault("user/plain", status=404, body=b'{"error": "no"}')  # a mirror without the hub's codes
    with pytest.raises(RepositoryNotFound):
        hub.repository("user/plain", "main")


@pytest.mark.parametrize("revision", ["mian", "f" * 40])
def test_a_branch_that_is_not_there_names_those_that_are(served: Served, hub: Hub, revision: str) -> None:
    served.add(REPO, {"a": b""}, revision="dev")
    with pytest.raises(RevisionNotFound) as caught:
        hub.repository(REPO, revision)
    assert (caught.value.revision, caught.value.known) == (revision, ["main", "dev"])
    assert "main, dev" in caught.value.say("zh")


def test_what_is_gated_says_so_and_opens_with_the_token(served: Served, hub: Hub) -> None:
    served.token = "hf_secret"
    served.add("user/gated", {"a": b"1"}, gated=True)
    repository = hub.repository("user/gated", "main")
    with pytest.raises(AccessDenied):
        hub.source(repository).open(repository.files[0], 0, 1)
    knowing = Hub(served.url, Token("hf_secret", frozenset({hub.host})))
    assert read(knowing.source(repository).open(repository.files[0], 0, 1)) == b"1"


def test_a_file_that_is_gone(served: Served, hub: Hub, source: HubSource) -> None:
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
    ({"delay": 1.5}, MirrorUnreachable, "no answer in time"),
    ({"stall_after": 3}, MirrorUnreachable, "no answer in time"),
    ({"reset_after": 3}, MirrorUnreachable, "reset"),
    ({"drop_after": 3}, MirrorUnreachable, "broke"),
]


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS, ids=lambda each: str(each)[:40])
def test_what_goes_wrong_with_a_list_is_told(
    served: Served, hub: Hub, fault: dict[str, object], error: type[DownloadError], words: str
) -> None:
    served.fault("/revision/", **fault)
    with pytest.raises(error) as caught:
        hub.repository(REPO, "main")
    assert words in caught.value.say("en") and hub.host in caught.value.say("zh")
    assert caught.value.passing is (error is not NotAHub)


def test_a_mirror_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(MirrorUnreachable, match="refused"):
            Hub(f"http://127.0.0.1:{taken.getsockname()[1]}").resolve(REPO, "main")
    with pytest.raises(MirrorUnreachable, match="name is not known"):
        Hub("https://no-such-host.invalid").resolve(REPO, "main")


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
def test_how_long_to_wait_is_what_the_mirror_says_within_reason(
    served: Served, hub: Hub, headers: dict[str, str], seconds: float
) -> None:
    served.fault("/revision/", status=429, headers=headers)
    with pytest.raises(RateLimited) as caught:
        hub.resolve(REPO, "main")
    assert caught.value.seconds == seconds


# -- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "end"), [(0, len(BIG)), (0, 1), (1, 300_000), (len(BIG) - 1, len(BIG))])
def test_the_bytes_asked_for_come(served: Served, hub: Hub, source: HubSource, begin: int, end: int) -> None:
    file, before = big(hub), served.sent
    body = source.open(file, begin, end)
    assert (body.begin, body.end, body.total) == (begin, end, len(BIG))
    assert read(body) == BIG[begin:end]
    assert served.sent - before == end - begin


def test_small_and_empty_files_come_too(hub: Hub, source: HubSource) -> None:
    repository = hub.repository(REPO, "main")
    assert read(source.open(named(repository, "config.json"), 0, 8)) == b'{"a": 1}'
    assert read(source.open(named(repository, "empty.txt"), 0, 0)) == b""


def test_no_coding_and_no_origin_is_told(served: Served, hub: Hub, source: HubSource) -> None:
    read(source.open(big(hub), 0, 5))
    for request in served.log:
        assert request.headers["Accept-Encoding"] == "identity"
        assert not {"Referer", "Cookie", "Origin"} & set(request.headers)


def test_a_cookie_is_not_kept(served: Served, hub: Hub) -> None:
    served.fault("/revision/", times=1, headers={"Set-Cookie": "id=1; Path=/"})
    hub.repository(REPO, "main")
    assert "Cookie" not in served.log[-1].headers


def test_the_mirror_is_asked_once_where_a_file_is(served: Served, hub: Hub, source: HubSource) -> None:
    file, got = big(hub), dict[int, bytes]()

    def take(place: int) -> None:
        got[place] = read(source.open(file, place, place + 100_000))

    threads = [threading.Thread(target=take, args=(place,)) for place in range(0, 500_000, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert b"".join(got[place] for place in sorted(got)) == BIG[:500_000]
    assert len(served.requests("/resolve/")) == 1 and len(served.requests(origin="cdn")) == 5


def test_connections_are_used_again(served: Served, hub: Hub, source: HubSource) -> None:
    for place in range(20):
        read(source.open(big(hub), place, place + 1000))
    assert len({each.connection for each in served.requests(origin="cdn")}) == 1
    assert len({each.connection for each in served.requests(origin="hub")}) <= 2  # the list's and the source's


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_link_that_has_expired_is_asked_for_again(served: Served, hub: Hub, source: HubSource, status: int) -> None:
    read(source.open(big(hub), 0, 10))
    served.fault("big", origin="cdn", times=1, status=status)
    assert read(source.open(big(hub), 10, 20)) == BIG[10:20]
    assert len(served.requests("/resolve/")) == 2


def test_links_that_expire_really(served: Served, hub: Hub, source: HubSource) -> None:
    """Spec test 8, on this side."""
    served.fault("big", origin="cdn", times=1, drop_after=100)
    with pytest.raises(DownloadError):
        read(source.open(big(hub), 0, 1000))
    served.expire_links()
    assert read(source.open(big(hub), 100, 1000)) == BIG[100:1000]


def test_a_fresh_link_that_is_refused_is_a_fault_that_may_pass(served: Served, hub: Hub, source: HubSource) -> None:
    served.fault("big", origin="cdn", status=403)
    with pytest.raises(ServerFault) as caught:
        source.open(big(hub), 0, 10)
    assert caught.value.passing and caught.value.host == served.cdn.removeprefix("http://")


def test_a_mirror_that_ignores_ranges_gives_all_from_the_start(served: Served, hub: Hub, source: HubSource) -> None:
    served.fault("big", origin="cdn", ignore_range=True)
    body = source.open(big(hub), 300_000, 300_010)
    assert (body.begin, body.end) == (0, len(BIG)) and read(body) == BIG


def test_a_mirror_that_gives_no_length_is_believed_to_have_it_all(served: Served, hub: Hub, source: HubSource) -> None:
    served.fault("big", origin="cdn", chunked=True)
    assert read(source.open(big(hub), 0, len(BIG))) == BIG
    assert read(source.open(big(hub), 5, 10)) == BIG[5:10]


def test_a_mirror_that_has_less_than_it_lists_is_found_out_at_the_end(
    served: Served, hub: Hub, source: HubSource
) -> None:
    served.fault("big", origin="cdn", chunked=True)
    file = big(hub)
    longer = RemoteFile(file.path, file.size + 5, file.sha256)
    with pytest.raises(WrongSize) as caught:
        read(source.open(longer, 0, longer.size))
    assert (caught.value.sent, caught.value.listed) == (len(BIG), len(BIG) + 5)


def test_never_more_than_asked_for(served: Served, hub: Hub, source: HubSource) -> None:
    told = {"Content-Range": f"bytes 0-9/{len(BIG)}", "Content-Length": None, "Connection": "close"}
    served.fault("big", origin="cdn", ignore_range=True, headers=told, status=0)
    served.fault("big", origin="hub", status=206, headers={**told, "Content-Type": "x/y"}, body=BIG)
    assert read(source.open(big(hub), 0, 10)) == BIG[:10]


LIES: list[tuple[dict[str, object], type[DownloadError]]] = [
    ({"headers": {"Content-Range": None}}, NotAHub),
    ({"headers": {"Content-Range": "bytes 11-20/512000"}}, NotAHub),
    ({"headers": {"Content-Range": "bytes 10-20/512000"}}, NotAHub),
    ({"headers": {"Content-Range": "bytes 10-18/512000"}}, NotAHub),
    ({"headers": {"Content-Range": "bytes 10-19/*"}}, NotAHub),
    ({"headers": {"Content-Range": "bytes -5-19/512000"}}, NotAHub),
    ({"headers": {"Content-Range": "../../etc"}}, NotAHub),
    ({"headers": {"Content-Range": "bytes 10-19/512001"}}, WrongSize),
    ({"headers": {"Content-Range": "bytes 10-19/" + "9" * 5000}}, NotAHub),
    ({"length": 11}, WrongSize),
    ({"headers": {"Content-Encoding": "gzip"}}, NotAHub),
    ({"ignore_range": True, "length": 5}, WrongSize),
    ({"body": b"<html>log in</html>"}, NotAHub),
    ({"status": 416, "headers": {"Content-Range": "bytes */7"}}, WrongSize),
    ({"status": 416}, NotAHub),
    ({"status": 204}, NotAHub),
    ({"status": 418}, NotAHub),
    ({"status": 429}, RateLimited),
    ({"status": 502}, ServerFault),
    ({"headers": {"ETag": '"../../../../X"', "X-Repo-Commit": "../x"}}, type(None)),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("lie", "error"), LIES, ids=lambda each: str(each)[:50])
def test_an_answer_that_lies_is_found_out(
    served: Served, hub: Hub, source: HubSource, lie: dict[str, object], error: type[DownloadError]
) -> None:
    """Spec test 13: ETag and Content-Range; spec test 2, on this side."""
    served.fault("big", origin="cdn", **lie)
    if error is type(None):
        assert read(source.open(big(hub), 10, 20)) == BIG[10:20]
        return
    with pytest.raises(error):
        source.open(big(hub), 10, 20)


@pytest.mark.parametrize("how", ["drop_after", "reset_after", "stall_after"])
def test_what_came_before_a_connection_broke_is_kept(served: Served, hub: Hub, source: HubSource, how: str) -> None:
    served.fault("big", origin="cdn", times=1, **{how: 100_000})
    got = bytearray()
    with pytest.raises(DownloadError) as caught:
        for piece in source.open(big(hub), 0, len(BIG)).chunks():
            got += piece
    assert caught.value.passing
    if how == "reset_after":  # the system throws away what it had not handed over
        assert BIG.startswith(bytes(got))
    else:
        assert got == BIG[:100_000]
    assert read(source.open(big(hub), len(got), len(BIG))) == BIG[len(got) :]


# -- redirects ------------------------------------------------------------------------------------------------------


def test_a_mirror_that_sends_us_to_another_hub_works(served: Served, hub: Hub, source: HubSource) -> None:
    """Spec test 17: 308, as hf-mirror.com does for what it has not cached."""
    with Served() as other:
        commit = other.add(REPO, {"config.json": b'{"a": 1}', "empty.txt": b"", "sub/big one.bin": BIG})
        place = f"{other.url}/{REPO}/resolve/{commit}/sub/big%20one.bin"
        served.fault("/resolve/", status=308, redirect=place)
        assert read(source.open(big(hub), 7, 77)) == BIG[7:77]
        assert read(source.open(big(hub), 8, 88)) == BIG[8:88]
        assert [each.origin for each in other.log] == ["hub", "cdn", "cdn"]


def test_a_mirror_that_sends_us_to_a_dead_host_is_told_so(
    served: Served, hub: Hub, source: HubSource, free_port: int
) -> None:
    served.fault("/resolve/", status=308, redirect=f"http://127.0.0.1:{free_port}/x")
    with pytest.raises(RedirectUnreachable) as caught:
        source.open(big(hub), 0, 5)
    assert (caught.value.host, caught.value.target) == (hub.host, f"127.0.0.1:{free_port}")


def test_a_list_that_is_redirected_works(served: Served, hub: Hub) -> None:
    commit = served.repos[REPO].branches["main"]
    served.fault("/revision/main", status=307, redirect=f"/api/models/{REPO}/revision/{commit}")
    assert hub.resolve(REPO, "main") == commit


@pytest.mark.parametrize(
    "target",
    [
        *("file:///etc/passwd", "ftp://example.com/x", "gopher://127.0.0.1/", "data:text/plain,x", "javascript:1"),
        *("http://[::1", "http://", "https:///x", "http://127.0.0.1:99999/x", "//:80/x"),
    ],
)
def test_a_redirect_to_what_is_no_web_server_is_not_followed(
    served: Served, hub: Hub, source: HubSource, target: str
) -> None:
    served.fault("/resolve/", redirect=target)
    with pytest.raises(NotAHub):
        source.open(big(hub), 0, 5)


def test_the_body_of_a_redirect_is_not_waited_for(served: Served, hub: Hub, source: HubSource) -> None:
    served.fault("/resolve/", redirect=f"/{REPO}/resolve/main/config.json", times=1, length=1 << 40)
    assert read(source.open(named(hub.repository(REPO, "main"), "config.json"), 1, 4)) == b'"a"'


def test_redirects_end_after_six(served: Served, hub: Hub, source: HubSource) -> None:
    served.fault("/resolve/", redirect=f"{served.url}/{REPO}/resolve/again")
    with pytest.raises(NotAHub, match="redirects"):
        source.open(big(hub), 0, 5)
    assert len(served.requests("/resolve/")) == 7


# -- the token ------------------------------------------------------------------------------------------------------


def test_the_token_goes_only_where_it_may(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Spec test 15, on this side: to the mirror that is ticked, not to its CDN, not to whom it redirects."""
    caplog.set_level(logging.DEBUG)
    with Served() as other:
        commit = other.add(REPO, {"config.json": b'{"a": 1}'})
        hub = Hub(served.url, Token("hf_secret", frozenset({served.url.removeprefix("http://"), "huggingface.co"})))
        repository = hub.repository(REPO, "main")
        source = hub.source(repository)
        served.fault("config", redirect=f"{other.url}/{REPO}/resolve/{commit}/config.json")
        for file in repository.files:
            read(source.open(file, 0, file.size))
        read(source.open(named(repository, "sub/big one.bin"), 5, 10))
        assert {each.authorization for each in served.requests(origin="hub")} == {"Bearer hf_secret"}
        assert {each.authorization for each in [*served.requests(origin="cdn"), *other.log]} == {""}
    assert "hf_secret" not in caplog.text + "".join(each.path for each in served.log)


def test_the_token_stays_at_home_for_a_mirror_that_is_not_ticked(served: Served) -> None:
    hub = Hub(served.url, Token("hf_secret", frozenset({"huggingface.co", "127.0.0.1"})))
    repository = hub.repository(REPO, "main")
    read(hub.source(repository).open(repository.files[0], 0, 1))
    assert {each.authorization for each in served.log} == {""}


def test_a_password_file_is_not_read(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    Hub(served.url).repository(REPO, "main")
    Hub(served.url, Token("hf_secret", frozenset({served.url.removeprefix("http://")}))).repository(REPO, "main")
    assert {each.authorization for each in served.log} == {"", "Bearer hf_secret"}


def test_an_error_does_not_show_the_token(served: Served) -> None:
    hub = Hub(served.url, Token("hf_secret", frozenset({served.url.removeprefix("http://")})))
    served.fault("/revision/", reset_after=0)
    with pytest.raises(MirrorUnreachable) as caught:
        hub.resolve(REPO, "main")
    assert "hf_secret" not in repr(caught.value) + repr(caught.value.__cause__) + caught.value.say("zh")


def test_the_environments_proxy_is_used(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", served.url)  # a proxy is asked for whole addresses
    monkeypatch.delenv("no_proxy", raising=False)
    assert Hub("http://mirror.example").resolve(REPO, "main") == served.repos[REPO].branches["main"]
    assert served.log[0].path == f"http://mirror.example/api/models/{REPO}/revision/main"


# -- letting go -----------------------------------------------------------------------------------------------------


def ended_after(wait: Callable[[], object], let_go: Callable[[], None]) -> tuple[float, BaseException | None]:
    """How many seconds after `let_go`, called once `wait` has begun to wait, that ended; and with which error."""
    ended: list[tuple[float, BaseException | None]] = []

    def run() -> None:
        try:
            wait()
        except DownloadError as error:
            ended.append((time.monotonic(), error))
        else:
            ended.append((time.monotonic(), None))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    assert not ended
    began = time.monotonic()
    let_go()
    thread.join(5)
    assert ended, "it still waits"
    return ended[0][0] - began, ended[0][1]


@pytest.fixture
def patient(served: Served) -> Iterator[Hub]:
    """A hub that would wait for long."""
    asked = Hub(served.url)
    yield asked
    asked.close()


@pytest.mark.parametrize("connection", [None, "close"])
def test_a_stalled_read_ends_at_once_when_its_body_is_closed(
    served: Served, patient: Hub, connection: str | None
) -> None:
    served.fault("big", origin="cdn", stall_after=1000, headers={"Connection": connection})
    source = patient.source(patient.repository(REPO, "main"))
    body = source.open(big(patient), 0, len(BIG))
    seconds, error = ended_after(lambda: read(body), body.close)
    assert seconds < 0.3 and isinstance(error, Stopped)
    with pytest.raises(Stopped):
        next(body.chunks())


def test_all_that_waits_ends_when_the_source_is_closed(served: Served, patient: Hub) -> None:
    served.fault("big", origin="cdn", stall_after=1000)
    source = patient.source(patient.repository(REPO, "main"))
    body = source.open(big(patient), 0, len(BIG))
    seconds, error = ended_after(lambda: read(body), source.close)
    assert seconds < 0.3 and isinstance(error, Stopped)
    with pytest.raises(Stopped):
        source.open(big(patient), 0, 5)


def test_a_wait_for_headers_ends_when_the_source_is_closed(served: Served, patient: Hub) -> None:
    source = patient.source(patient.repository(REPO, "main"))
    served.fault("big", delay=60)
    file = big(patient)
    seconds, error = ended_after(lambda: source.open(file, 0, 5), source.close)
    assert seconds < 0.3 and isinstance(error, Stopped)


def test_threads_that_wait_for_their_turn_end_too(served: Served, patient: Hub) -> None:
    source = patient.source(patient.repository(REPO, "main"))
    served.fault("big", delay=60)
    file = big(patient)
    threads = [threading.Thread(target=ended_after, args=(lambda: source.open(file, 0, 5), lambda: None))]
    threads[0].start()
    seconds, error = ended_after(lambda: source.open(file, 5, 10), source.close)
    threads[0].join(5)
    assert seconds < 0.3 and isinstance(error, Stopped) and not threads[0].is_alive()


@pytest.mark.parametrize("fault", [{"delay": 60}, {"stall_after": 2}], ids=str)
def test_a_wait_for_a_list_ends_when_the_hub_is_closed(served: Served, patient: Hub, fault: dict[str, object]) -> None:
    served.fault("/revision/", **fault)
    seconds, error = ended_after(lambda: patient.repository(REPO, "main"), patient.close)
    assert seconds < 0.3 and isinstance(error, Stopped)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_wait_for_a_connection_ends_when_the_hub_is_closed(scheme: str) -> None:
    """By http, a server whose queue is full; by https, one that takes the connection and then says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        full = [socket.socket() for _ in range(3 if scheme == "http" else 0)]
        for each in full:
            each.setblocking(False)
            each.connect_ex(address)
        hub = Hub(f"{scheme}://127.0.0.1:{address[1]}")
        seconds, error = ended_after(lambda: hub.resolve(REPO, "main"), hub.close)
        for each in full:
            each.close()
    assert seconds < 0.3 and isinstance(error, Stopped)


def test_a_body_that_nobody_reads_lets_its_connection_go(served: Served, hub: Hub, source: HubSource) -> None:
    body = source.open(big(hub), 0, len(BIG))
    body.close()
    assert body._response.raw.closed
    assert read(source.open(big(hub), 0, 10)) == BIG[:10]


def test_a_body_that_is_left_half_read_lets_its_connection_go(hub: Hub, source: HubSource) -> None:
    body = source.open(big(hub), 0, len(BIG))
    chunks = body.chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert body._response.raw.closed


def test_nothing_is_left_open(served: Served) -> None:
    import os

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = None
    for _ in range(3):
        hub = Hub(served.url)
        source = hub.source(hub.repository(REPO, "main"))
        read(source.open(big(hub), 0, 100_000))
        source.close()
        hub.close()
        time.sleep(0.2)  # the server's ends
        before = before or count()
    assert count() <= before
