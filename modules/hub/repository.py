"""A repository at one commit with its files, and the interface through which their bytes are read from a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["model", "lora"]


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it.

    `path` uses slashes and has passed `safe_paths.check_files`; `size` is in bytes. Exactly one hash is set: the
    SHA-256 of a large (LFS) file, or the git blob id of a small one.
    """

    path: str
    size: int
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True)
class Repository:
    """The files of repository `name` at one commit.

    `revision` is what was requested, such as a branch; `commit` is the commit it pointed to, 40 hexadecimal digits.
    """

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]


class Body(Protocol):
    """The response body with bytes `begin` to `end` (exclusive) of a file of `total` bytes."""

    begin: int
    end: int
    total: int

    def chunks(self) -> Iterator[bytes]:
        """Yield chunks of up to 256 KiB, at most end - begin bytes in all.

        Raises DownloadError if the connection breaks.
        """

    def close(self) -> None:
        """Close the connection; a read pending in another thread fails at once. Thread-safe."""


class FileSource(Protocol):
    """The files of one repository commit, as one mirror serves them."""

    host: str

    def open(self, file: RemoteFile, begin: int, end: int) -> Body:
        """Request bytes `begin` to `end` (exclusive) of `file`.

        A mirror that ignores ranges answers with a body that covers the whole file. Raises DownloadError.
        """

    def close(self) -> None:
        """Close all connections and unblock pending `open` calls. Thread-safe."""
