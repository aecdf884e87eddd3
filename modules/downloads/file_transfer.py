"""One file from the mirrors to the disk: in segments over as many connections, tried again, verified.

The thread that calls looks after those that carry, ten times a second: it writes down what is there, notices
connections that have fallen asleep, and lets go of all when it is to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from modules.downloads.checksum import Digest, digest, expected, read_back
from modules.downloads.partial_file import Part, Syncing, disk_faults, part_file
from modules.downloads.retry import Pace, Waiting
from modules.downloads.segment import Carrier, RangesIgnored
from modules.hub.errors import ChecksumMismatch, Stopped
from modules.hub.repository import RemoteFile, Source

_TICK_SECONDS = 0.1
_PARTING_SECONDS = 0.5
"""How long threads that are to end are waited for. A later one still writes the right bytes to the right file."""


class Transfer:
    """Brings `file` of one commit to `place` + ".part", verified, from the first of `sources` that has it.
    `lost` are those that are known to be of no use now; more may be added.

    Of what `run` does, any thread may ask for `done` and `received`, bytes that are there and that came over the
    network; `checked`, bytes read back to be verified, 0 before; `waiting`, if no connection brings anything; `ended`.
    """

    def __init__(
        self,
        place: Path,
        commit: str,
        file: RemoteFile,
        sources: Sequence[Source],
        lost: list[Source],
        pace: Pace,
        stop: threading.Event,
    ) -> None:
        self.file = file
        self._place, self._commit, self._sources = place, commit, list(sources)
        self._lost, self._pace, self._stop = lost, pace, stop
        self._part: Part | None = None
        self._carriers: list[Carrier] = []
        self._received_before = 0
        self.checked = 0
        self.ended = False

    @property
    def done(self) -> int:
        return self._part.done if self._part else 0

    @property
    def received(self) -> int:
        return self._received_before + sum(each.received for each in self._carriers)

    @property
    def waiting(self) -> Waiting | None:
        waits = [each.waiting for each in self._carriers if each.is_alive()]
        told = [each for each in waits if each]
        return min(told, key=lambda each: each.until) if told and len(told) == len(waits) else None

    def run(self) -> Path:
        """The verified file, under its temporary name. Stopped, or a DownloadError; what is there then stays.

        A file with the wrong hash is deleted and fetched once more, from the next mirror if there is one.
        """
        try:
            found = self._fetched()
            if found != expected(self.file):
                self._sources = [*self._sources[1:], *self._sources[:1]]
                found = self._fetched()
        finally:
            self.ended = True
        if found != expected(self.file):
            raise ChecksumMismatch(self.file.path, expected(self.file)[:12], found[:12])
        return part_file(self._place)

    def _fetched(self) -> str:
        """The hash of the whole file, which is deleted if that is wrong. One that was verified before a pause is read
        again: what has become of its bytes since, its state does not know."""
        part = self._part = Part(self._place, self._commit, self.file, self._pace)
        self.checked = 0
        try:
            found = self._hash(part, self._carry(part))
            if found == expected(self.file):
                self._keep(part)
            else:
                self._part = None
                part.discard()
            return found
        finally:
            part.close()

    def _keep(self, part: Part) -> None:
        if part.verified:
            return
        syncing = part.sync()
        while not syncing.ended(_TICK_SECONDS):
            if self._stop.is_set():
                raise Stopped
        part.keep()

    def _hash(self, part: Part, inline: Digest | None) -> str:
        if inline:
            return inline.hexdigest()
        with disk_faults(part.path.parent, 0):
            return read_back(part.descriptor, digest(self.file), self._watch_check)

    def _watch_check(self, count: int) -> None:
        self.checked = count
        if self._stop.is_set():
            raise Stopped

    def _carry(self, part: Part) -> Digest | None:
        """Until every byte is there. Its hash, if all came through in order."""
        inline = None
        while not part.complete:
            inline = digest(self.file) if part.untouched else None
            try:
                self._round(part, inline)
                assert part.complete, "a carrier ended before its time"
            except RangesIgnored:
                part.collapse()
            finally:
                part.save()
        return inline

    def _round(self, part: Part, inline: Digest | None) -> None:
        """All segments at once, until they are complete, one of them has failed, or all is to stop."""
        self._received_before, self._carriers = self.received, []
        halt, news = threading.Event(), threading.Event()
        told = (self._sources, self._lost, self._pace, halt, news, inline, part.path.parent)
        self._carriers = [Carrier(self.file, each, *told) for each in part.segments if each.missing]
        try:
            self._look_after(part, news)
        finally:
            halt.set()
            self._part_from_carriers()
        self._complain()

    def _look_after(self, part: Part, news: threading.Event) -> None:
        first, *later = self._carriers
        first.begin(part.descriptor)
        clock = _Clock(self._pace)
        while any(each.is_alive() for each in self._carriers) or (later and first.ranged):
            if first.ranged:  # else the others would get the whole file each, or the same refusal
                while later:
                    later.pop(0).begin(part.descriptor)
            news.wait(_TICK_SECONDS)
            news.clear()
            if self._stop.is_set() or any(each.fault for each in self._carriers):
                return
            clock.tick(part)
            for each in self._carriers:
                each.wake_if_asleep(time.monotonic())

    def _part_from_carriers(self) -> None:
        until = time.monotonic() + _PARTING_SECONDS
        for each in self._carriers:
            each.let_go()
        if self._stop.is_set():
            for source in self._sources:
                source.close()
        for each in self._carriers:
            if each.is_alive():
                each.join(max(0.0, until - time.monotonic()))

    def _complain(self) -> None:
        if self._stop.is_set():
            raise Stopped
        faults = [each.fault for each in self._carriers if each.fault]
        told = [each for each in faults if not isinstance(each, Stopped)]
        if told:
            raise told[0]


class _Clock:
    """When it is time to write down what is there, and to have it on the disk."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._saved = self._synced = time.monotonic()
        self._syncing: Syncing | None = None

    def tick(self, part: Part) -> None:
        now = time.monotonic()
        if now - self._synced >= self._pace.sync_seconds and (self._syncing is None or self._syncing.ended()):
            self._syncing, self._synced = part.sync(), now
        if now - self._saved >= self._pace.save_seconds:
            part.save()
            self._saved = now
