"""Writing to a pipe in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

import pytest

from modules.system.pipe_writer import PipeWriter

LONGER_THAN_A_PIPE = 1 << 21


@pytest.fixture
def pipe() -> Iterator[tuple[IO[bytes], PipeWriter]]:
    """The reading end of a pipe, and the writer of the other one."""
    reading, writing = os.pipe()
    writer = PipeWriter(os.fdopen(writing, "wb"))
    with os.fdopen(reading, "rb") as reader:
        yield reader, writer
    writer.close()


def test_everything_arrives_in_order_before_the_pipe_is_closed(pipe: tuple[IO[bytes], PipeWriter]) -> None:
    reader, writer = pipe
    messages = [f"{number}\n".encode() for number in range(1000)]
    for message in messages:
        writer.send(message)
    writer.close()
    assert reader.readlines() == messages


def test_who_sends_does_not_wait_for_the_reader(pipe: tuple[IO[bytes], PipeWriter]) -> None:
    reader, writer = pipe
    for letter in (b"a", b"b"):
        writer.send(letter * LONGER_THAN_A_PIPE)
    writer.close()
    assert reader.read() == b"a" * LONGER_THAN_A_PIPE + b"b" * LONGER_THAN_A_PIPE


def test_what_nobody_reads_any_more_is_lost_in_silence(pipe: tuple[IO[bytes], PipeWriter]) -> None:
    reader, writer = pipe
    writer.send(b"a" * LONGER_THAN_A_PIPE)
    reader.close()
    writer.send(b"b")
    writer.close()
    writer.close()
