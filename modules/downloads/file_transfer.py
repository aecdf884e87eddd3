"""Transfer one file from the mirrors to a partial file: in segments over several connections, with retries, verified.

The calling thread supervises the segment threads ten times a second: it saves progress, replaces stalled connections,
and aborts all of them when the transfer is to stop.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

from modules.downloads.checksum import Digest, expected_hash, hash_file, new_digest
from modules.downloads.context import TransferContext, TransferOptions
from modules.downloads.disk import disk_errors
from modules.downloads.errors import ChecksumMismatch
from modules.downloads.partial_file import DiskSync, PartialFile
from modules.downloads.retry import RetryWait
from modules.downloads.segment import RangesIgnored, SegmentDownload
from modules.hub.errors import Stopped
from modules.hub.repository import RemoteFile

_TICK_SECONDS = 0.1
_JOIN_SECONDS = 0.5
"""How long segment threads are waited for. A thread that ends later still writes valid bytes to the right file."""


class FileTransfer:
    """Transfers `file` to the partial file at `path`, from the first source that has it.

    While `run` works, any thread may read `done` and `received`, bytes present and bytes from the network; `checked`,
    bytes read back for verification so far; `waiting`, the next retry if no connection is active; and `ended`.
    """

    def __init__(self, context: TransferContext, file: RemoteFile, path: Path) -> None:
        self.file, self._path = file, path
        self._context = context
        self._part: PartialFile | None = None
        self._segments: list[SegmentDownload] = []
        self._received_before = 0  # by the segments of earlier rounds
        self.checked = 0
        self.ended = False

    @property
    def done(self) -> int:
        return self._part.done if self._part else 0

    @property
    def received(self) -> int:
        return self._received_before + sum(segment.received for segment in self._segments)

    @property
    def waiting(self) -> RetryWait | None:
        waits = [segment.waiting for segment in self._segments if segment.is_alive()]
        pending = [wait for wait in waits if wait]
        return min(pending, key=lambda wait: wait.until) if pending and len(pending) == len(waits) else None

    def run(self) -> Path:
        """Transfer and verify the file, and return the path of the partial file.

        A file with the wrong hash is deleted and transferred once more, from the next mirror if there is one. Raises
        Stopped or another DownloadError; the bytes present are then kept.
        """
        try:
            actual = self._fetch()
            if actual != expected_hash(self.file):
                first, *others = self._context.sources
                self._context = dataclasses.replace(self._context, sources=(*others, first))
                actual = self._fetch()
        finally:
            self.ended = True
        if actual != expected_hash(self.file):
            raise ChecksumMismatch(self.file.path, expected_hash(self.file)[:12], actual[:12])
        return self._path

    def _fetch(self) -> str:
        """Transfer the file and return its hash; delete the file if that is wrong.

        A file that was verified before a pause is read again, because its bytes may have changed since.
        """
        part = self._part = PartialFile(self._path, self._context.commit, self.file, self._context.options)
        self.checked = 0
        try:
            actual = self._hash(part, self._download(part))
            if actual == expected_hash(self.file):
                self._flush(part)
            else:
                self._part = None
                part.delete()
            return actual
        finally:
            part.close()

    def _flush(self, part: PartialFile) -> None:
        """Flush the verified file to the disk and record that."""
        if part.verified:
            return
        sync = part.start_sync()
        while not sync.finished(_TICK_SECONDS):
            self._check_stopped()
        part.mark_verified()

    def _hash(self, part: PartialFile, digest: Digest | None) -> str:
        if digest:
            return digest.hexdigest()
        with disk_errors(part.path.parent, 0):
            return hash_file(part.descriptor, new_digest(self.file), self._on_hashed)

    def _on_hashed(self, count: int) -> None:
        self.checked = count
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._context.stop.is_set():
            raise Stopped

    # -- downloading ---------------------------------------------------------------------------------------------------

    def _download(self, part: PartialFile) -> Digest | None:
        """Download all missing bytes. Returns their digest if all of them arrived in order."""
        digest = None
        while not part.complete:
            digest = new_digest(self.file) if part.arrives_in_order else None
            try:
                self._download_segments(part, digest)
                assert part.complete, "a segment ended before it was complete"
            except RangesIgnored:
                part.merge_segments()
            finally:
                part.save()
        return digest

    def _download_segments(self, part: PartialFile, digest: Digest | None) -> None:
        """Download all segments at once until they are complete, one of them has failed, or the transfer stops."""
        self._received_before, self._segments = self.received, []
        stop, changed = threading.Event(), threading.Event()
        context = dataclasses.replace(self._context, stop=stop)
        self._segments = [
            SegmentDownload(context, part, segment, digest, changed) for segment in part.segments if segment.missing
        ]
        try:
            self._supervise(part, changed)
        finally:
            stop.set()
            self._end_segments()
        self._raise_failure()

    def _supervise(self, part: PartialFile, changed: threading.Event) -> None:
        first, *others = self._segments
        first.start()
        schedule = _SaveSchedule(self._context.options)
        while any(segment.is_alive() for segment in self._segments) or (others and first.range_honored):
            if first.range_honored:  # until then, the others might receive the whole file each, or the same refusal
                while others:
                    others.pop(0).start()
            changed.wait(_TICK_SECONDS)
            changed.clear()
            if self._context.stop.is_set() or any(segment.error for segment in self._segments):
                return
            schedule.tick(part)
            for segment in self._segments:
                segment.abort_if_stalled(time.monotonic())

    def _end_segments(self) -> None:
        deadline = time.monotonic() + _JOIN_SECONDS
        for segment in self._segments:
            segment.abort()
        if self._context.stop.is_set():
            for source in self._context.sources:
                source.close()
        for segment in self._segments:
            if segment.is_alive():
                segment.join(max(0.0, deadline - time.monotonic()))

    def _raise_failure(self) -> None:
        self._check_stopped()
        errors = [segment.error for segment in self._segments if segment.error]
        failures = [error for error in errors if not isinstance(error, Stopped)]
        if failures:
            raise failures[0]


class _SaveSchedule:
    """Saves the progress of a partial file, and flushes it to the disk, at the intervals of `options`."""

    def __init__(self, options: TransferOptions) -> None:
        self._options = options
        self._saved = self._synced = time.monotonic()
        self._sync: DiskSync | None = None

    def tick(self, part: PartialFile) -> None:
        now = time.monotonic()
        if now - self._synced >= self._options.sync_seconds and (self._sync is None or self._sync.finished()):
            self._sync, self._synced = part.start_sync(), now
        if now - self._saved >= self._options.save_seconds:
            part.save()
            self._saved = now
