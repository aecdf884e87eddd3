"""What lies on a hub: a repository at one commit, and its files. And what a transfer asks of a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["model", "lora"]


@dataclass(frozen=True)
class RemoteFile:
    """`path` is a safe one, with slashes. One of the two hashes is known: sha256 of large ones, git's of small ones."""

    path: str
    size: int
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True)
class Repository:
    """`revision` is what was asked for, such as a branch; `commit` is what it was then, 40 hexadecimal digits."""

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]


class Body(Protocol):
    """Bytes `begin` to `end` (exclusive) of a file that has `total`, on their way."""

    begin: int
    end: int
    total: int

    def chunks(self) -> Iterator[bytes]:
        """Up to 256 KiB each, never more than end - begin in all. A DownloadError if the connection breaks."""

    def close(self) -> None:
        """From any thread: a read that waits for bytes returns at once, with an error."""


class Source(Protocol):
    """A repository at one commit on one mirror."""

    host: str

    def open(self, file: RemoteFile, begin: int, end: int) -> Body:
        """Ask for these bytes. A mirror that ignores ranges gives a body from 0 to the end. DownloadError."""

    def close(self) -> None:
        """From any thread: let go of what is open, and what waits in `open`."""
