"""Context objects of downloads: what all jobs share, and what the file transfers of one run share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modules.downloads.retry import RetryPolicy
from modules.hub.repository import FileSource, Repository

MIB = 1 << 20
GIB = 1 << 30


class Mirror(Protocol):
    """The methods of a hub client that downloads use; see `modules.hub.client.HubClient`."""

    host: str

    def repository(self, repo: str, revision: str) -> Repository: ...

    def source(self, repository: Repository) -> FileSource: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TransferOptions:
    """How files are transferred. Sizes are in bytes.

    Files of `split_from` bytes or more are split into segments over up to `connections`, of at least `min_segment`
    bytes each; as many smaller files are transferred at once. Progress is saved every `save_seconds` and flushed to the
    disk every `sync_seconds`.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    connections: int = 4
    split_from: int = 64 * MIB
    min_segment: int = 16 * MIB
    save_seconds: float = 0.5
    sync_seconds: float = 5


@dataclass(frozen=True)
class DownloadContext:
    """The settings that all jobs share.

    `open_mirrors` returns new clients, the preferred one first; every run opens and closes its own. `reserve` bytes of
    the disk are left free.
    """

    open_mirrors: Callable[[], Sequence[Mirror]]
    options: TransferOptions = field(default_factory=TransferOptions)
    reserve: int = GIB


@dataclass(frozen=True)
class TransferContext:
    """The state that the file transfers of one run share; all files are of one `commit`.

    `sources` are in order of preference. Those in `unreachable` are used only if there are no others; transfers add to
    this list. Setting `stop` ends all transfers with Stopped.
    """

    commit: str
    sources: tuple[FileSource, ...]
    options: TransferOptions
    stop: threading.Event
    unreachable: list[FileSource] = field(default_factory=list)
