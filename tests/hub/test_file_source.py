"""A file source delivers exactly the requested bytes or raises an error."""

from __future__ import annotations

import threading
import time

import pytest

from modules.hub.client import HubClient
from modules.hub.errors import (
    DownloadError,
    MirrorUnreachable,
    NotAHub,
    RateLimited,
    RedirectUnreachable,
    RevisionNotFound,
    ServerFault,
    WrongSize,
)
from modules.hub.file_source import HubFileSource
from modules.hub.repository import RemoteFile
from tests.support.hub_reading import BIG, REPO, find_file, large_file, read_body
from tests.support.hub_server import HubServer


@pytest.mark.parametrize(("begin", "end"), [(0, len(BIG)), (0, 1), (1, 300_000), (len(BIG) - 1, len(BIG))])
def test_exactly_the_requested_bytes_are_delivered(
    served: HubServer, hub: HubClient, source: HubFileSource, begin: int, end: int
) -> None:
    file, sent_before = large_file(hub), served.sent
    body = source.open(file, begin, end)
    assert (body.begin, body.end, body.total) == (begin, end, len(BIG))
    assert read_body(body) == BIG[begin:end]
    assert served.sent - sent_before == end - begin


def test_small_and_empty_files_are_delivered(hub: HubClient, source: HubFileSource) -> None:
    repository = hub.repository(REPO, "main")
    assert read_body(source.open(find_file(repository, "config.json"), 0, 8)) == b'{"a": 1}'
    assert read_body(source.open(find_file(repository, "empty.txt"), 0, 0)) == b""


def test_requests_accept_no_compression_and_name_no_referrer(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    read_body(source.open(large_file(hub), 0, 5))
    for request in served.log:
        assert request.headers["Accept-Encoding"] == "identity"
        assert not {"Referer", "Cookie", "Origin"} & set(request.headers)


def test_a_cookie_is_not_kept(served: HubServer, hub: HubClient) -> None:
    served.fault("/revision/", times=1, headers={"Set-Cookie": "id=1; Path=/"})
    hub.repository(REPO, "main")
    assert "Cookie" not in served.log[-1].headers


def test_the_link_of_a_file_is_resolved_once(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    file, pieces = large_file(hub), dict[int, bytes]()

    def read_piece(offset: int) -> None:
        pieces[offset] = read_body(source.open(file, offset, offset + 100_000))

    threads = [threading.Thread(target=read_piece, args=(offset,)) for offset in range(0, 500_000, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert b"".join(pieces[offset] for offset in sorted(pieces)) == BIG[:500_000]
    assert len(served.requests("/resolve/")) == 1 and len(served.requests(origin="cdn")) == 5


def test_connections_are_reused(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    for offset in range(20):
        read_body(source.open(large_file(hub), offset, offset + 1000))
    assert len({request.connection for request in served.requests(origin="cdn")}) == 1
    assert (
        len({request.connection for request in served.requests(origin="hub")}) <= 2
    )  # one for the file list, one for the source


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_expired_link_is_resolved_again(
    served: HubServer, hub: HubClient, source: HubFileSource, status: int
) -> None:
    read_body(source.open(large_file(hub), 0, 10))
    served.fault("big", origin="cdn", times=1, status=status)
    assert read_body(source.open(large_file(hub), 10, 20)) == BIG[10:20]
    assert len(served.requests("/resolve/")) == 2


def test_links_expire_by_time(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    """Spec test 8, for the client."""
    served.fault("big", origin="cdn", times=1, drop_after=100)
    with pytest.raises(DownloadError):
        read_body(source.open(large_file(hub), 0, 1000))
    served.expire_links()
    assert read_body(source.open(large_file(hub), 100, 1000)) == BIG[100:1000]


def test_a_new_link_that_is_refused_is_a_transient_error(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    served.fault("big", origin="cdn", status=403)
    with pytest.raises(ServerFault) as caught:
        source.open(large_file(hub), 0, 10)
    assert caught.value.transient and caught.value.host == served.cdn.removeprefix("http://")


def test_a_mirror_that_ignores_ranges_delivers_the_whole_file(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    served.fault("big", origin="cdn", ignore_range=True)
    body = source.open(large_file(hub), 300_000, 300_010)
    assert (body.begin, body.end) == (0, len(BIG)) and read_body(body) == BIG


def test_a_missing_content_length_is_accepted(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    served.fault("big", origin="cdn", chunked=True)
    assert read_body(source.open(large_file(hub), 0, len(BIG))) == BIG
    assert read_body(source.open(large_file(hub), 5, 10)) == BIG[5:10]


def test_a_file_shorter_than_listed_is_detected_at_its_end(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    served.fault("big", origin="cdn", chunked=True)
    file = large_file(hub)
    longer = RemoteFile(file.path, file.size + 5, file.sha256)
    with pytest.raises(WrongSize) as caught:
        read_body(source.open(longer, 0, longer.size))
    assert (caught.value.sent, caught.value.listed) == (len(BIG), len(BIG) + 5)


def test_a_source_delivers_no_more_bytes_than_requested(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    headers = {"Content-Range": f"bytes 0-9/{len(BIG)}", "Content-Type": "x/y", "Content-Length": None}
    served.fault("big", origin="hub", status=206, headers={**headers, "Connection": "close"}, body=BIG)
    assert read_body(source.open(large_file(hub), 0, 10)) == BIG[:10]


@pytest.mark.parametrize("origin", ["hub", "cdn"])
def test_a_request_to_a_silent_mirror_times_out(
    served: HubServer, hub: HubClient, source: HubFileSource, origin: str
) -> None:
    """Spec test 10. A mirror that falls silent within a body is tested below."""
    served.fault("big", origin=origin, delay=5)
    started = time.monotonic()
    with pytest.raises(MirrorUnreachable if origin == "hub" else RedirectUnreachable):
        source.open(large_file(hub), 0, 10)
    assert time.monotonic() - started < 2


INCONSISTENT_RESPONSES: list[tuple[dict[str, object], type[DownloadError]]] = [
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


@pytest.mark.parametrize(("fault", "error"), INCONSISTENT_RESPONSES, ids=lambda value: str(value)[:50])
def test_inconsistent_responses_are_refused(
    served: HubServer, hub: HubClient, source: HubFileSource, fault: dict[str, object], error: type[DownloadError]
) -> None:
    """Spec test 13, for ETag and Content-Range, and spec test 2, for the client."""
    served.fault("big", origin="cdn", **fault)
    if error is type(None):
        assert read_body(source.open(large_file(hub), 10, 20)) == BIG[10:20]
        return
    with pytest.raises(error):
        source.open(large_file(hub), 10, 20)


def test_a_commit_that_was_deleted_since_its_list_was_read_is_named(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    file, commit = large_file(hub), hub.resolve_commit(REPO, "main")
    served.repos[REPO].commits.clear()
    with pytest.raises(RevisionNotFound, match=f"'{commit}'. Available: –"):
        source.open(file, 10, 20)


@pytest.mark.parametrize("fault", ["drop_after", "reset_after", "stall_after"])
def test_bytes_received_before_a_broken_connection_are_kept(
    served: HubServer, hub: HubClient, source: HubFileSource, fault: str
) -> None:
    served.fault("big", origin="cdn", times=1, **{fault: 100_000})
    received = bytearray()
    with pytest.raises(MirrorUnreachable) as caught:
        for piece in source.open(large_file(hub), 0, len(BIG)).chunks():
            received += piece
    assert caught.value.transient and caught.value.host == served.cdn.removeprefix("http://")
    if fault == "reset_after":  # The kernel discards received bytes that were not read yet.
        assert BIG.startswith(bytes(received))
    else:
        assert received == BIG[:100_000]
    assert read_body(source.open(large_file(hub), len(received), len(BIG))) == BIG[len(received) :]


def test_a_body_without_a_length_that_ends_early_is_a_broken_connection(
    served: HubServer, hub: HubClient, source: HubFileSource
) -> None:
    served.fault("big", origin="cdn", headers={"Content-Length": None}, drop_after=100_000)
    received = bytearray()
    with pytest.raises(MirrorUnreachable, match="connection"):
        for piece in source.open(large_file(hub), 0, len(BIG)).chunks():
            received += piece
    assert received == BIG[:100_000]
