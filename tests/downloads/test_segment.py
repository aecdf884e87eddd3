"""A segment accepts only the bytes that it has requested, whatever a mirror answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.downloads.context import TransferContext, TransferOptions
from modules.downloads.partial_file import PartialFile
from modules.downloads.retry import RetryPolicy
from modules.downloads.segment import RangesIgnored, SegmentDownload
from modules.hub.errors import DownloadError, MirrorUnreachable, NotAHub, WrongSize
from modules.hub.repository import RemoteFile

CONTENT = b"0123456789"
FILE = RemoteFile("a.bin", len(CONTENT))


@dataclass
class Body:
    """A response that says it has bytes `begin` to `end` of `total`, and has `data`."""

    begin: int
    end: int
    total: int
    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data

    def close(self) -> None:
        pass


@dataclass
class Source:
    """A mirror with one answer for all requests."""

    body: Body
    host: str = "mirror.invalid"

    def open(self, file: RemoteFile, begin: int, end: int) -> Body:
        return self.body

    def close(self) -> None:
        pass


def received(folder: Path, body: Body, done: int = 0, parts: int = 1) -> tuple[bytes, DownloadError | None]:
    """Download the first of `parts` segments, `done` bytes of which are present; return the file and the error."""
    options = TransferOptions(RetryPolicy(waits=()), split_from=1 if parts > 1 else 100, min_segment=10 // parts)
    part = PartialFile(folder / "0.part", "c" * 40, FILE, options)
    part.segments[0].done = done
    context = TransferContext("c" * 40, (Source(body),), options, threading.Event())
    segment = SegmentDownload(context, part, part.segments[0], None, threading.Event())
    segment.start()
    segment.join(3)
    content = part.path.read_bytes()
    part.delete()
    part.close()
    return content, segment.error


def test_the_missing_bytes_are_taken_from_an_answer_that_covers_more(tmp_path: Path) -> None:
    assert received(tmp_path, Body(0, 10, 10, CONTENT)) == (CONTENT, None)
    assert received(tmp_path, Body(0, 10, 10, CONTENT), done=4) == (bytes(4) + CONTENT[4:], None)


def test_other_bytes_than_those_requested_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    cases: list[tuple[Body, int, type[DownloadError]]] = [
        (Body(0, 10, 11, CONTENT), 1, WrongSize),
        (Body(2, 10, 10, CONTENT[2:]), 1, NotAHub),
        (Body(0, 10, 10, CONTENT), 2, RangesIgnored),
    ]
    for body, parts, error in cases:
        with subtests.test(error=error.__name__):
            content, failure = received(tmp_path, body, parts=parts)
            assert content == bytes(10) and isinstance(failure, error)


def test_an_answer_that_ends_early_keeps_its_bytes(tmp_path: Path) -> None:
    content, failure = received(tmp_path, Body(0, 10, 10, CONTENT[:7]))
    assert content == CONTENT[:7] + bytes(3)
    assert isinstance(failure, MirrorUnreachable) and "ended early" in str(failure)
