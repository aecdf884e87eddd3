"""Transfer a file with the real client from a faulty hub: it arrives as listed or not at all, and hardly any byte is
requested twice."""

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
from tests.support.downloading import HASTY, REPO, SPLIT, listed, noise, sha256, threads, until
from tests.support.hub_server import HubServer

BIG = "model.safetensors"
SIZE = 12 * MIB
BYTES = noise(SIZE)
SMALL = noise(3000, 1)
SLACK = 256 << 10
"""Bytes that one broken attempt may cost."""

LISTS = 4000
"""Bytes of the file lists, at most."""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as made:
        made.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        yield made
    assert threads() == []


def transfer(
    hub: HubServer,
    folder: Path,
    options: TransferOptions = HASTY,
    file: str = BIG,
    stop: threading.Event | None = None,
    more: str = "",
) -> FileTransfer:
    mirror, repository = listed(hub.url)
    sources: list[FileSource] = [mirror.source(repository)]
    if more:
        sources.append(listed(more)[0].source(repository))
    wanted = next(each for each in repository.files if each.path == file)
    context = TransferContext(repository.commit, tuple(sources), options, stop or threading.Event())
    return FileTransfer(context, wanted, folder / "0.part")


def stopped(work: FileTransfer) -> threading.Thread:
    """Run the transfer in a thread, and expect it to be stopped."""

    def run() -> None:
        with pytest.raises(Stopped):
            work.run()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
@pytest.mark.parametrize(("file", "content"), [(BIG, BYTES), ("config.json", SMALL), ("empty.txt", b"")])
def test_a_file_arrives_unchanged(
    hub: HubServer, tmp_path: Path, options: TransferOptions, file: str, content: bytes
) -> None:
    path = transfer(hub, tmp_path, options, file).run()
    assert path.read_bytes() == content
    told = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == sha256(path)


def test_a_large_file_comes_over_four_connections_and_a_small_one_over_one(hub: HubServer, tmp_path: Path) -> None:
    transfer(hub, tmp_path, SPLIT).run()
    asked = [each.range for each in hub.requests(origin="cdn")]
    assert sorted(asked) == sorted(f"bytes={3 * n * MIB}-{3 * (n + 1) * MIB - 1}" for n in range(4))
    assert len(hub.requests(f"resolve.*{BIG}")) == 1, "the mirror is asked once where the bytes are"


def test_the_sizes_that_decide_are_64_and_16_mib() -> None:
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
    "a chunked answer": ({"chunked": True}, 0),
    "a chunked answer that breaks": ({"chunked": True, "drop_after": 5 * MIB, "times": 1}, 1),
    "no length": ({"headers": {"Content-Length": None}, "times": 1}, 0),
}


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_transient_fault_costs_almost_nothing(
    hub: HubServer, tmp_path: Path, name: str, options: TransferOptions
) -> None:
    fault, retries = FAULTS[name]
    hub.fault(BIG, origin="cdn", **fault)
    before = hub.sent
    work = transfer(hub, tmp_path, options)
    assert work.run().read_bytes() == BYTES
    assert work.received == SIZE, "nothing was received twice"
    if "reset" not in name:  # that throws away what the kernel was still to send
        assert hub.sent - before <= SIZE + retries * SLACK + LISTS


def test_a_connection_that_drops_every_200_kib_still_completes(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", drop_after=200 << 10)
    before = hub.sent
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES
    assert hub.sent - before <= SIZE + LISTS
    assert len(hub.requests(origin="cdn")) == -(-SIZE // (200 << 10))


def test_a_link_that_expires_midway_is_resolved_again(hub: HubServer, tmp_path: Path) -> None:
    drop = hub.fault(BIG, origin="cdn", drop_after=5 * MIB, times=1)
    work = transfer(hub, tmp_path, TransferOptions(RetryPolicy(waits=(0.3,) * 6)))
    told: list[bytes] = []
    thread = threading.Thread(target=lambda: told.append(work.run().read_bytes()))
    thread.start()
    until(lambda: drop.seen)
    hub.expire_links()
    thread.join(20)
    assert told == [BYTES]
    assert len(hub.requests(f"resolve.*{BIG}")) == 2


@pytest.mark.parametrize("options", [HASTY, SPLIT], ids=["one connection", "four"])
def test_a_mirror_that_ignores_ranges_sends_the_file_once(
    hub: HubServer, tmp_path: Path, options: TransferOptions
) -> None:
    hub.fault(BIG, origin="cdn", ignore_range=True)
    assert transfer(hub, tmp_path, options).run().read_bytes() == BYTES
    assert len(hub.requests(origin="cdn")) <= 2


def test_a_mirror_that_ignores_ranges_after_a_drop_is_read_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=2, ignore_range=True)
    hub.fault(BIG, origin="cdn", skip=1, times=1, drop_after=MIB)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_ranges_ignored_midway_lose_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=4, ignore_range=True)
    hub.fault(BIG, origin="cdn", skip=1, times=3, drop_after=MIB)
    assert transfer(hub, tmp_path, SPLIT).run().read_bytes() == BYTES


def test_a_rate_limit_is_awaited_and_shown(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", status=429, headers={"Retry-After": "1"}, times=1)
    work, seen = transfer(hub, tmp_path), set()
    thread = threading.Thread(target=work.run)
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        seen |= {work.waiting}
        time.sleep(0.01)
    assert 1.0 <= time.monotonic() - began < 3
    (wait,) = [each for each in seen if each]
    assert isinstance(wait.error, RateLimited)
    assert wait.error.seconds == 1 and wait.attempts == 6


@pytest.mark.parametrize("corruptions", [1, None], ids=["once", "always"])
def test_a_corrupt_byte_leads_to_one_refetch_and_never_to_a_file(
    hub: HubServer, tmp_path: Path, corruptions: int | None
) -> None:
    hub.fault(BIG, origin="cdn", corrupt=7 * MIB, times=corruptions)
    work = transfer(hub, tmp_path)
    if corruptions:
        assert work.run().read_bytes() == BYTES
    else:
        with pytest.raises(ChecksumMismatch) as caught:
            work.run()
        assert caught.value.expected != caught.value.found and caught.value.file == BIG
        assert list(tmp_path.iterdir()) == []
    assert len(hub.requests(origin="cdn")) == 2


def test_a_corrupt_small_file_is_found_by_its_git_hash(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("config.json", corrupt=5)
    with pytest.raises(ChecksumMismatch):
        transfer(hub, tmp_path, file="config.json").run()


def test_after_six_failed_retries_the_transfer_fails_and_keeps_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    with pytest.raises(ServerFault):
        transfer(hub, tmp_path).run()
    assert len(hub.requests(origin="cdn")) == 1 + 6
    hub.faults.clear()
    before = hub.sent
    work = transfer(hub, tmp_path)
    assert work.run().read_bytes() == BYTES
    assert work.received == SIZE - 5 * MIB and hub.sent - before < SIZE - 5 * MIB + LISTS


def test_a_permanent_error_is_not_retried(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", body=b"<html>login", status=200)
    with pytest.raises(NotAHub):
        transfer(hub, tmp_path).run()
    assert len(hub.requests(origin="cdn")) == 1


def test_another_mirror_continues_midway(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=5 * MIB)
    with HubServer() as second:
        second.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert transfer(hub, tmp_path, more=second.url).run().read_bytes() == BYTES
        assert SIZE - 5 * MIB <= second.sent <= SIZE - 5 * MIB + LISTS


def test_the_next_mirror_gets_the_second_chance_after_a_wrong_hash(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", corrupt=7 * MIB)
    with HubServer() as second:
        second.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert transfer(hub, tmp_path, more=second.url).run().read_bytes() == BYTES


def test_a_mirror_without_the_file_leaves_it_to_the_next(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(f"resolve.*{BIG}", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(FileNotOnHub):
        transfer(hub, tmp_path).run()
    with HubServer() as second:
        second.add(REPO, {BIG: BYTES, "config.json": SMALL, "empty.txt": b""})
        assert transfer(hub, tmp_path, more=second.url).run().read_bytes() == BYTES


def test_a_file_of_another_size_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", length=SIZE + 5)
    with pytest.raises(WrongSize):
        transfer(hub, tmp_path).run()


def test_a_stalled_connection_is_replaced(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", times=1, rate=100)
    began = time.monotonic()
    path = transfer(hub, tmp_path, TransferOptions(RetryPolicy(waits=(0.01,) * 6, stall_seconds=0.4))).run()
    assert path.read_bytes() == BYTES and time.monotonic() - began < 5
    assert len(hub.requests(origin="cdn")) == 2


def test_an_unreachable_cdn_is_named(hub: HubServer, tmp_path: Path) -> None:
    work = transfer(hub, tmp_path)
    hub.fault("", origin="cdn", reset_after=0)
    with pytest.raises(DownloadError) as caught:
        work.run()
    assert hub.cdn.removeprefix("http://") in str(caught.value)


STOPS: dict[str, tuple[dict[str, object], TransferOptions]] = {
    "while bytes come": ({"rate": 500_000}, HASTY),
    "while four bring bytes": ({"rate": 500_000}, SPLIT),
    "while it stalls": ({"stall_after": MIB}, HASTY),
    "while four stall": ({"stall_after": MIB}, SPLIT),
    "before the answer": ({"delay": 30}, HASTY),
    "in a wait between tries": ({"status": 503}, TransferOptions(RetryPolicy(waits=(60,) * 6))),
    "in the wait for a limit": ({"status": 429, "headers": {"Retry-After": "200"}}, HASTY),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_transfer_stops_within_a_second(hub: HubServer, tmp_path: Path, name: str) -> None:
    fault, options = STOPS[name]
    struck = hub.fault(BIG, origin="cdn", **fault)
    stop = threading.Event()
    thread = stopped(transfer(hub, tmp_path, options, stop=stop))
    until(lambda: struck.seen)
    time.sleep(0.3)
    began = time.monotonic()
    stop.set()
    thread.join(10)
    assert time.monotonic() - began < 1
    until(lambda: threads() == [], 1)


def test_a_transfer_stops_while_it_verifies(hub: HubServer, tmp_path: Path) -> None:
    stop = threading.Event()
    work = transfer(hub, tmp_path, SPLIT, stop=stop)
    check = work._on_hashed

    def stop_at_the_third_chunk(count: int) -> None:
        if count >= 3 * MIB:
            stop.set()
        check(count)

    work._on_hashed = stop_at_the_third_chunk  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        work.run()
    assert work.checked == 3 * MIB
    again = transfer(hub, tmp_path, SPLIT)
    assert again.run().read_bytes() == BYTES and again.received == 0


def test_a_stopped_transfer_resumes_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    fault = hub.fault(BIG, origin="cdn", rate=10_000_000)
    stop = threading.Event()
    work = transfer(hub, tmp_path, SPLIT, stop=stop)
    thread = stopped(work)
    until(lambda: work.done > 3 * MIB)
    stop.set()
    thread.join(5)
    there = work.done
    hub.faults.remove(fault)
    again = transfer(hub, tmp_path, SPLIT)
    assert again.run().read_bytes() == BYTES
    assert again.received == SIZE - there and again.done == SIZE


@pytest.mark.parametrize("garbage", [b"\0" * SIZE, b"\0" * 100, b""])
def test_a_foreign_partial_file_is_not_resumed(hub: HubServer, tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "0.part").write_bytes(garbage)
    (tmp_path / "0.json").write_text('{"verified": true}')
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_verified_file_whose_bytes_have_changed_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    path = transfer(hub, tmp_path).run()
    assert '"verified": true' in (tmp_path / "0.json").read_text()
    before = hub.sent
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES and hub.sent - before < SLACK, "it is only read again"
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"garbage of the same size")
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_partial_file_of_an_old_commit_is_not_resumed(hub: HubServer, tmp_path: Path) -> None:
    transfer(hub, tmp_path).run()
    new = noise(SIZE, 7)
    hub.add(REPO, {BIG: new})
    assert transfer(hub, tmp_path).run().read_bytes() == new


def test_wrong_bytes_under_a_valid_record_are_detected(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(BIG, origin="cdn", skip=1, status=500)
    hub.fault(BIG, origin="cdn", times=1, drop_after=8 * MIB)
    with pytest.raises(ServerFault):
        transfer(hub, tmp_path).run()
    (tmp_path / "0.part").write_bytes(b"\0" * SIZE)
    hub.faults.clear()
    assert transfer(hub, tmp_path).run().read_bytes() == BYTES


def test_a_link_in_place_of_the_partial_file_is_not_written_through(hub: HubServer, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"mine")
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "0.part").symlink_to(treasure)
    assert transfer(hub, stage).run().read_bytes() == BYTES
    assert treasure.read_bytes() == b"mine"


def test_a_file_that_does_not_fit_is_refused_before_the_transfer(hub: HubServer, tmp_path: Path) -> None:
    work = transfer(hub, tmp_path)
    object.__setattr__(work.file, "size", 1 << 50)
    with pytest.raises(DiskFull) as caught:
        work.run()
    assert caught.value.needed == 1 << 50 and 0 < caught.value.free < 1 << 50
    assert list(tmp_path.iterdir()) == [] and hub.requests(origin="cdn") == []
