"""Transfers from a faulty hub with the real client.

A file arrives as listed or the transfer fails, and few bytes are requested twice.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.downloads.context import MIB, TransferContext, TransferOptions
from modules.downloads.errors import ChecksumMismatch, DiskFull
from modules.downloads.file_transfer import FileTransfer
from modules.downloads.retry import RetryPolicy
from modules.hub.errors import DownloadError, FileNotOnHub, NotAHub, RateLimited, ServerFault, Stopped, WrongSize
from modules.hub.repository import FileSource
from tests.support.downloading import HASTY, REPO, SPLIT, download_threads, list_repository, noise, sha256, until
from tests.support.hub_server import HubServer

BIG = "model.safetensors"
SIZE = 12 * MIB
BYTES = noise(SIZE)
SMALL = noise(3000, 1)
SLACK = 256 << 10
"""Bytes that one broken attempt may waste."""

LISTS = 4000
"""Maximum bytes of all file lists."""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        yield server
    assert download_threads() == []


def new_transfer(
    hub: HubServer,
    folder: Path,
    options: TransferOptions = HASTY,
    file: str = BIG,
    stop: threading.Event | None = None,
    second_url: str = "",
) -> FileTransfer:
    mirror, repository = list_repository(hub.url)
    sources: list[FileSource] = [mirror.source(repository)]
    if second_url:
        sources.append(list_repository(second_url)[0].source(repository))
    entry = next(entry for entry in repository.files if entry.path == file)
    context = TransferContext(repository.commit, tuple(sources), options, stop or threading.Event())
    return FileTransfer(context, entry, folder / "0.part")


def start_and_expect_stop(transfer: FileTransfer) -> threading.Thread:
    """Run the transfer in a thread and expect it to raise Stopped."""

    def run() -> None:
        with pytest.raises(Stopped):
            transfer.run()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
@pytest.mark.parametrize(("file", "content"), [(BIG, BYTES), ("config.json", SMALL), ("empty.txt", b"")])
def test_a_file_arrives_unchanged(
    hub: HubServer, tmp_path: Path, options: TransferOptions, file: str, content: bytes
) -> None:
    path = new_transfer(hub, tmp_path, options, file).run()
    assert path.read_bytes() == content
    output = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert output.split()[0] == sha256(path)


def test_a_large_file_is_requested_over_four_connections(hub: HubServer, tmp_path: Path) -> None:
    new_transfer(hub, tmp_path, SPLIT).run()
    ranges = [request.range for request in hub.requests(origin="cdn")]
    assert sorted(ranges) == sorted(f"bytes={3 * n * MIB}-{3 * (n + 1) * MIB - 1}" for n in range(4))
    assert len(hub.requests(f"resolve.*{BIG}")) == 1, "the link is resolved once"


def test_files_from_64_mib_are_split_into_at_most_four_segments_of_at_least_16_mib() -> None:
    assert (TransferOptions().split_from, TransferOptions().min_segment, TransferOptions().connections) == (
        64 * MIB,
        16 * MIB,
        4,
    )


FAULTS: dict[str, tuple[dict[str, object], int]] = {
    "a drop": ({"drop_after": 5 * MIB, "times": 1}, 1),
    "a reset": ({"reset_after": 5 * MIB, "times": 1}, 1),
    "three resets before the first byte": ({"reset_after": 0, "times": 3}, 3),
    "503 three times": ({"status": 503, "times": 3}, 3),
    "408": ({"status": 408, "times": 1}, 1),
    "an expired link": ({"status": 403, "times": 1}, 1),
    "a chunked response": ({"chunked": True}, 0),
    "a broken chunked response": ({"chunked": True, "drop_after": 5 * MIB, "times": 1}, 1),
    "no length": ({"headers": {"Content-Length": None}, "times": 1}, 0),
}


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_transient_fault_causes_almost_no_extra_traffic(
    hub: HubServer, tmp_path: Path, name: str, options: TransferOptions
) -> None:
    fault, retries = FAULTS[name]
    hub.fault(BIG, origin="cdn", **fault)
    sent_before = hub.sent
    transfer = new_transfer(hub, tmp_path, options)
    assert transfer.run().read_bytes() == BYTES
    assert transfer.received == SIZE, "nothing was received twice"
    if "reset" not in name:  # A reset discards the bytes that the kernel has not sent yet.
        assert hub.sent - sent_before <= SIZE + retries * SLACK + LISTS


def test_a_connection_that_drops_every_200_kib_still_completes(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", drop_after=200 << 10)
    sent_before = hub.sent
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES
    assert hub.sent - sent_before <= SIZE + LISTS
    assert len(hub.requests(origin="cdn")) == -(-SIZE // (200 << 10))


def test_a_link_that_expires_midway_is_resolved_again(hub: HubServer, tmp_path: Path) -> None:
    drop = hub.fault(BIG, origin="cdn", drop_after=5 * MIB, times=1)
    transfer = new_transfer(hub, tmp_path, TransferOptions(RetryPolicy(waits=(0.3,) * 6)))
    contents: list[bytes] = []
    thread = threading.Thread(target=lambda: contents.append(transfer.run().read_bytes()))
    thread.start()
    until(lambda: drop.match_count)
    hub.expire_links()
    thread.join(20)
    assert contents == [BYTES]
    assert len(hub.requests(f"resolve.*{BIG}")) == 2


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
def test_a_mirror_that_ignores_ranges_sends_the_file_once(
    hub: HubServer, tmp_path: Path, options: TransferOptions
) -> None:
    hub.fault(BIG, origin="cdn", ignore_range=True)
    assert new_transfer(hub, tmp_path, options).run().read_bytes() == BYTES
    assert len(hub.requests(origin="cdn")) <= 2


def test_a_mirror_that_ignores_ranges_after_a_drop_is_read_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=2, ignore_range=True)
    hub.fault(BIG, origin="cdn", skip=1, times=1, drop_after=MIB)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_mirror_that_stops_honoring_ranges_midway_still_delivers_the_file(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=4, ignore_range=True)
    hub.fault(BIG, origin="cdn", skip=1, times=3, drop_after=MIB)
    assert new_transfer(hub, tmp_path, SPLIT).run().read_bytes() == BYTES


def test_the_transfer_waits_for_a_rate_limit_and_shows_the_wait(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", status=429, headers={"Retry-After": "1"}, times=1)
    transfer, states = new_transfer(hub, tmp_path), set()
    thread = threading.Thread(target=transfer.run)
    started = time.monotonic()
    thread.start()
    while thread.is_alive():
        states |= {transfer.waiting}
        time.sleep(0.01)
    assert 1.0 <= time.monotonic() - started < 3
    (wait,) = [state for state in states if state]
    assert isinstance(wait.error, RateLimited)
    assert wait.error.seconds == 1 and wait.attempts == 6


@pytest.mark.parametrize("corruptions", [1, None], ids=["once", "always"])
def test_a_corrupt_file_is_fetched_once_more_and_never_kept(
    hub: HubServer, tmp_path: Path, corruptions: int | None
) -> None:
    hub.fault(BIG, origin="cdn", corrupt=7 * MIB, times=corruptions)
    transfer = new_transfer(hub, tmp_path)
    if corruptions:
        assert transfer.run().read_bytes() == BYTES
    else:
        with pytest.raises(ChecksumMismatch) as caught:
            transfer.run()
        assert caught.value.expected != caught.value.found and caught.value.file == BIG
        assert list(tmp_path.iterdir()) == []
    assert len(hub.requests(origin="cdn")) == 2


def test_the_git_hash_detects_a_corrupt_small_file(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("config.json", corrupt=5)
    with pytest.raises(ChecksumMismatch):
        new_transfer(hub, tmp_path, file="config.json").run()


def test_after_six_failed_retries_the_transfer_fails_and_keeps_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    with pytest.raises(ServerFault):
        new_transfer(hub, tmp_path).run()
    assert len(hub.requests(origin="cdn")) == 1 + 6
    hub.faults.clear()
    sent_before = hub.sent
    transfer = new_transfer(hub, tmp_path)
    assert transfer.run().read_bytes() == BYTES
    assert transfer.received == SIZE - 5 * MIB and hub.sent - sent_before < SIZE - 5 * MIB + LISTS


def test_a_permanent_error_is_not_retried(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", body=b"<html>login", status=200)
    with pytest.raises(NotAHub):
        new_transfer(hub, tmp_path).run()
    assert len(hub.requests(origin="cdn")) == 1


def test_another_mirror_continues_a_partial_transfer(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    with HubServer() as second_hub:
        second_hub.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert new_transfer(hub, tmp_path, second_url=second_hub.url).run().read_bytes() == BYTES
        assert SIZE - 5 * MIB <= second_hub.sent <= SIZE - 5 * MIB + LISTS


def test_after_a_wrong_hash_the_file_is_fetched_from_the_next_mirror(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", corrupt=7 * MIB)
    with HubServer() as second_hub:
        second_hub.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert new_transfer(hub, tmp_path, second_url=second_hub.url).run().read_bytes() == BYTES


def test_if_a_mirror_lacks_the_file_the_next_one_is_used(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(f"resolve.*{BIG}", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(FileNotOnHub):
        new_transfer(hub, tmp_path).run()
    with HubServer() as second_hub:
        second_hub.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert new_transfer(hub, tmp_path, second_url=second_hub.url).run().read_bytes() == BYTES


def test_a_file_larger_than_listed_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", length=SIZE + 5)
    with pytest.raises(WrongSize):
        new_transfer(hub, tmp_path).run()


def test_a_stalled_connection_is_replaced(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", times=1, rate=100)
    started = time.monotonic()
    path = new_transfer(hub, tmp_path, TransferOptions(RetryPolicy(waits=(0.01,) * 6, stall_seconds=0.4))).run()
    assert path.read_bytes() == BYTES and time.monotonic() - started < 5
    assert len(hub.requests(origin="cdn")) == 2


def test_the_error_for_an_unreachable_cdn_names_its_host(hub: HubServer, tmp_path: Path) -> None:
    transfer = new_transfer(hub, tmp_path)
    hub.fault("", origin="cdn", reset_after=0)
    with pytest.raises(DownloadError) as caught:
        transfer.run()
    assert hub.cdn.removeprefix("http://") in str(caught.value)


STOPS: dict[str, tuple[dict[str, object], TransferOptions]] = {
    "while bytes arrive": ({"rate": 500_000}, HASTY),
    "while bytes arrive over four connections": ({"rate": 500_000}, SPLIT),
    "while a connection stalls": ({"stall_after": MIB}, HASTY),
    "while four connections stall": ({"stall_after": MIB}, SPLIT),
    "before the response": ({"delay": 30}, HASTY),
    "while waiting between retries": ({"status": 503}, TransferOptions(RetryPolicy(waits=(60,) * 6))),
    "while waiting for a rate limit": ({"status": 429, "headers": {"Retry-After": "200"}}, HASTY),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_transfer_stops_within_a_second(hub: HubServer, tmp_path: Path, name: str) -> None:
    settings, options = STOPS[name]
    fault = hub.fault(BIG, origin="cdn", **settings)
    stop = threading.Event()
    thread = start_and_expect_stop(new_transfer(hub, tmp_path, options, stop=stop))
    until(lambda: fault.match_count)
    time.sleep(0.3)
    started = time.monotonic()
    stop.set()
    thread.join(10)
    assert time.monotonic() - started < 1
    until(lambda: download_threads() == [], 1)


def test_a_transfer_stops_while_it_verifies(hub: HubServer, tmp_path: Path) -> None:
    stop = threading.Event()
    transfer = new_transfer(hub, tmp_path, SPLIT, stop=stop)
    on_hashed = transfer._on_hashed

    def stop_at_the_third_chunk(count: int) -> None:
        if count >= 3 * MIB:
            stop.set()
        on_hashed(count)

    transfer._on_hashed = stop_at_the_third_chunk  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        transfer.run()
    assert transfer.checked == 3 * MIB
    resumed = new_transfer(hub, tmp_path, SPLIT)
    assert resumed.run().read_bytes() == BYTES and resumed.received == 0


def test_a_stopped_transfer_resumes_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    fault = hub.fault(BIG, origin="cdn", rate=10_000_000)
    stop = threading.Event()
    transfer = new_transfer(hub, tmp_path, SPLIT, stop=stop)
    thread = start_and_expect_stop(transfer)
    until(lambda: transfer.done > 3 * MIB)
    stop.set()
    thread.join(5)
    done_before = transfer.done
    hub.faults.remove(fault)
    resumed = new_transfer(hub, tmp_path, SPLIT)
    assert resumed.run().read_bytes() == BYTES
    assert resumed.received == SIZE - done_before and resumed.done == SIZE


@pytest.mark.parametrize("garbage", [b"\0" * SIZE, b"\0" * 100, b""])
def test_a_partial_file_without_a_record_is_not_resumed(hub: HubServer, tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "0.part").write_bytes(garbage)
    (tmp_path / "0.json").write_text('{"verified": true}')
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_verified_file_is_fetched_again_if_its_bytes_have_changed(hub: HubServer, tmp_path: Path) -> None:
    path = new_transfer(hub, tmp_path).run()
    assert '"verified": true' in (tmp_path / "0.json").read_text()
    sent_before = hub.sent
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES and hub.sent - sent_before < SLACK, (
        "it is only hashed again"
    )
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"garbage of the same size")
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_partial_file_of_an_old_commit_is_not_resumed(hub: HubServer, tmp_path: Path) -> None:
    new_transfer(hub, tmp_path).run()
    new_bytes = noise(SIZE, 7)
    hub.add(REPO, {BIG: new_bytes})
    assert new_transfer(hub, tmp_path).run().read_bytes() == new_bytes


def test_wrong_bytes_in_a_resumed_file_are_detected(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=8 * MIB)
    with pytest.raises(ServerFault):
        new_transfer(hub, tmp_path).run()
    (tmp_path / "0.part").write_bytes(b"\0" * SIZE)
    hub.faults.clear()
    assert new_transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_link_in_place_of_the_partial_file_is_not_written_through(hub: HubServer, tmp_path: Path) -> None:
    link_target = tmp_path / "outside"
    link_target.write_bytes(b"mine")
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "0.part").symlink_to(link_target)
    assert new_transfer(hub, folder).run().read_bytes() == BYTES
    assert link_target.read_bytes() == b"mine"


def test_a_file_that_does_not_fit_is_refused_before_the_transfer(hub: HubServer, tmp_path: Path) -> None:
    transfer = new_transfer(hub, tmp_path)
    object.__setattr__(transfer.file, "size", 1 << 50)
    with pytest.raises(DiskFull) as caught:
        transfer.run()
    assert caught.value.needed == 1 << 50 and 0 < caught.value.free < 1 << 50
    assert list(tmp_path.iterdir()) == [] and hub.requests(origin="cdn") == []
