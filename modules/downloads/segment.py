"""Download one segment of a file in a thread, with retries and a change of mirrors."""

from __future__ import annotations

import os
import threading
import time

from modules.downloads.checksum import Digest
from modules.downloads.context import TransferContext
from modules.downloads.disk import disk_errors, write_at
from modules.downloads.errors import DiskFull, DiskRefused
from modules.downloads.partial_file import PartialFile, Segment
from modules.downloads.retry import MirrorRotation, RetryWait
from modules.hub.errors import DownloadError, MirrorUnreachable, NotAHub, Stopped, WrongSize
from modules.hub.repository import Body, FileSource

_NICENESS = 10
"""Enough for a chat to come first; with more, a thread that gets no CPU time would keep the GIL from others."""

_TOO_SLOW = {"en": "too slow", "zh": "速度过慢"}
_ENDED_EARLY = {"en": "the connection ended early", "zh": "连接提前断开"}
_WRONG_BYTES = {"en": "other bytes than those requested", "zh": "返回的不是所请求的字节"}


class RangesIgnored(DownloadError):
    """The mirror sends the whole file although a part was requested. Handled by the file transfer."""


class SegmentDownload(threading.Thread):
    """Downloads the missing bytes of `segment` into `part`, until `context.stop` is set.

    `digest`, if any, is fed with the bytes. `changed` is set when bytes begin to arrive and when the thread ends.
    Other threads may read `error`, why it gave up; `waiting`, the pending retry; `received`, bytes from the network;
    and `range_honored`, whether a mirror has sent exactly what was requested.
    """

    def __init__(
        self,
        context: TransferContext,
        part: PartialFile,
        segment: Segment,
        digest: Digest | None,
        changed: threading.Event,
    ) -> None:
        super().__init__(name=f"download {part.file.path}", daemon=True)
        self._file, self._folder = part.file, part.path.parent
        self._sources, self._unreachable = context.sources, context.unreachable
        self._retry, self._stopped = context.options.retry, context.stop
        self.segment, self._digest, self._changed = segment, digest, changed
        self._whole = (segment.begin, segment.end) == (0, part.size)
        self._part_descriptor = part.descriptor
        self._body: Body | None = None
        self._checkpoint = (time.monotonic(), 0)  # time and received bytes, to measure the rate
        self._stalled = False
        self.waiting: RetryWait | None = None
        self.range_honored = False
        self.received = 0
        self.error: DownloadError | None = None

    def start(self) -> None:
        # A descriptor of its own stays valid until the last byte is written, even if the file is closed before.
        self._descriptor = os.dup(self._part_descriptor)
        super().start()

    def run(self) -> None:
        lower_thread_priority()
        try:
            self._download()
        except DownloadError as error:
            self.error = error
        finally:
            os.close(self._descriptor)
            self._changed.set()

    def abort(self) -> None:
        """Unblock a pending read from another thread."""
        if body := self._body:
            body.close()

    def abort_if_stalled(self, now: float) -> None:
        """Replace the connection if its rate has been too low for a while. Called from another thread."""
        since, received = self._checkpoint
        if now - since < self._retry.stall_seconds:
            return
        self._checkpoint = (now, self.received)
        if self._body and self.received - received < self._retry.min_rate * self._retry.stall_seconds:
            self._stalled = True
            self.abort()

    def _download(self) -> None:
        rotation = MirrorRotation(self._retry, self._sources, self._unreachable)
        while self.segment.missing:
            before, source = self.segment.done, rotation.current
            try:
                self._receive_from(source)
            except (RangesIgnored, DiskFull, DiskRefused):  # neither a retry nor another mirror would help
                raise
            except DownloadError as error:
                self._check_stopped()
                failure = MirrorUnreachable(source.host, _TOO_SLOW) if self._stalled else error
                self._wait(rotation.record_failure(failure, self.segment.done - before))

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _wait(self, waiting: RetryWait | None) -> None:
        if waiting is None:
            return
        self.waiting = waiting
        self._stopped.wait(max(0.0, waiting.until - time.monotonic()))
        self.waiting = None
        self._check_stopped()

    def _receive_from(self, source: FileSource) -> None:
        """Receive over one connection. Raises DownloadError unless the segment is complete afterwards."""
        segment, self._stalled = self.segment, False
        self._check_stopped()
        body = source.open(self._file, segment.position, segment.end)
        try:
            self._body, self._checkpoint = body, (time.monotonic(), self.received)
            self._check_stopped()
            self._check_extent(source, body)
            self._write_chunks(body)
        finally:
            self._body = None
            body.close()
        if segment.missing:
            raise MirrorUnreachable(source.host, _ENDED_EARLY)

    def _check_extent(self, source: FileSource, body: Body) -> None:
        if body.total != self._file.size:
            raise WrongSize(source.host, self._file.path, body.total, self._file.size)
        if body.begin > self.segment.position:
            raise NotAHub(source.host, _WRONG_BYTES)
        if not self._whole and (body.begin, body.end) != (self.segment.position, self.segment.end):
            raise RangesIgnored
        self.range_honored = True
        self._changed.set()

    def _write_chunks(self, body: Body) -> None:
        segment, skip = self.segment, self.segment.position - body.begin
        for chunk in body.chunks():
            self._check_stopped()
            data = memoryview(chunk)[skip : skip + segment.missing]
            skip = max(0, skip - len(chunk))
            with disk_errors(self._folder, segment.missing):
                write_at(self._descriptor, data, segment.position)
            if self._digest:
                self._digest.update(data)
            segment.done += len(data)
            self.received += len(data)


def lower_thread_priority() -> None:
    """Let threads that serve users run before the current one."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
