"""One segment of a file on its way: a thread that does nothing but carry bytes, and tries again where that may help."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from modules.downloads.checksum import Digest
from modules.downloads.partial_file import Segment, disk_faults, write
from modules.downloads.retry import Pace, Tries, Waiting
from modules.hub.errors import DiskFull, DiskRefused, DownloadError, MirrorUnreachable, NotAHub, Stopped, WrongSize
from modules.hub.repository import Body, RemoteFile, Source

_NICE = 10
"""Enough for a chat to come first; more would leave Python's lock with a thread that gets no time to give it back."""


class RangesIgnored(DownloadError):
    """The mirror sends the whole file where a part was asked for. Never seen outside of a transfer."""


class Carrier(threading.Thread):
    """Brings what is missing of `segment` to an open file. `halt` ends it; `news` is called when it begins or ends.

    `fault` is why it gave up, `waiting` what it waits for, `ranged` whether a mirror has sent just what was asked for.
    """

    def __init__(
        self,
        file: RemoteFile,
        segment: Segment,
        sources: Sequence[Source],
        lost: list[Source],
        pace: Pace,
        halt: threading.Event,
        news: threading.Event,
        digest: Digest | None,
        folder: Path,
    ) -> None:
        super().__init__(name=f"download {file.path}", daemon=True)
        self._file, self.segment, self._sources, self._lost, self._pace = file, segment, sources, lost, pace
        self._halt, self._news, self._digest, self._folder = halt, news, digest, folder
        self._whole = (segment.begin, segment.end) == (0, file.size)
        self._body: Body | None = None
        self._mark = (time.monotonic(), 0)
        self._asleep = False
        self.waiting: Waiting | None = None
        self.ranged = False
        self.received = 0
        self.fault: DownloadError | None = None

    def begin(self, descriptor: int) -> None:
        """Start. The file gets a descriptor of the thread's own, which nobody can close before the last byte."""
        self._descriptor = os.dup(descriptor)
        self.start()

    def run(self) -> None:
        gentle()
        try:
            self._try_until_there()
        except DownloadError as error:
            self.fault = error
        finally:
            os.close(self._descriptor)
            self._news.set()

    def let_go(self) -> None:
        """From another thread: have a read that waits come back."""
        if body := self._body:
            body.close()

    def wake_if_asleep(self, now: float) -> None:
        """From another thread: make the connection anew if hardly anything came for a while."""
        since, before = self._mark
        if now - since < self._pace.slow_seconds:
            return
        self._mark = (now, self.received)
        if self._body and self.received - before < self._pace.slow * self._pace.slow_seconds:
            self._asleep = True
            self.let_go()

    def _try_until_there(self) -> None:
        tries = Tries(self._pace, self._sources, self._lost)
        while self.segment.missing:
            before, source = self.segment.done, tries.mirror
            try:
                self._receive(source)
            except (RangesIgnored, DiskFull, DiskRefused):  # no other try, no other mirror would help
                raise
            except DownloadError as error:
                self._go_on_unless_halted()
                why = MirrorUnreachable(source.host, "too slow") if self._asleep else error
                self._pause(tries.failed(why, self.segment.done - before))

    def _go_on_unless_halted(self) -> None:
        if self._halt.is_set():
            raise Stopped

    def _pause(self, waiting: Waiting | None) -> None:
        if waiting is None:
            return
        self.waiting = waiting
        self._halt.wait(max(0.0, waiting.until - time.monotonic()))
        self.waiting = None
        self._go_on_unless_halted()

    def _receive(self, source: Source) -> None:
        """What one connection brings. DownloadError if it was not all."""
        segment, self._asleep = self.segment, False
        self._go_on_unless_halted()
        body = source.open(self._file, segment.place, segment.end)
        try:
            self._body, self._mark = body, (time.monotonic(), self.received)
            self._go_on_unless_halted()
            self._check(source, body)
            self._take(body)
        finally:
            self._body = None
            body.close()
        if segment.missing:
            raise MirrorUnreachable(source.host, "the connection ended early")

    def _check(self, source: Source, body: Body) -> None:
        if body.total != self._file.size:
            raise WrongSize(source.host, self._file.path, body.total, self._file.size)
        if body.begin > self.segment.place:
            raise NotAHub(source.host, "other bytes than those asked for")
        if not self._whole and (body.begin, body.end) != (self.segment.place, self.segment.end):
            raise RangesIgnored
        self.ranged = True
        self._news.set()

    def _take(self, body: Body) -> None:
        segment, skip = self.segment, self.segment.place - body.begin
        for chunk in body.chunks():
            self._go_on_unless_halted()
            piece = memoryview(chunk)[skip : skip + segment.missing]
            skip = max(0, skip - len(chunk))
            with disk_faults(self._folder, segment.missing):
                write(self._descriptor, piece, segment.place)
            if self._digest:
                self._digest.update(piece)
            segment.done += len(piece)
            self.received += len(piece)


def gentle() -> None:
    """Have this thread give way to those that answer somebody."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
