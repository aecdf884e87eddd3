"""One go at a download, from asking what the repository has to the files in their places."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import difflib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from modules.downloads.checksum import confirm
from modules.downloads.file_transfer import Transfer
from modules.downloads.install_files import Place, metadata
from modules.downloads.partial_file import allocated, check_room, disk_faults, part_file
from modules.downloads.pickle_scan import scan
from modules.downloads.record import JobRecord
from modules.downloads.retry import Pace, Tries, Waiting
from modules.formats.weight_files import is_pickle
from modules.hub.errors import DownloadError, FileNotOnHub, NothingToDownload, Stopped
from modules.hub.repository import RemoteFile, Repository, Source
from modules.hub.safe_paths import check

_TICK_SECONDS = 0.1


class Mirror(Protocol):
    """A hub, as far as a job asks it."""

    host: str

    def repository(self, repo: str, revision: str) -> Repository: ...

    def source(self, repository: Repository) -> Source: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class BranchMoved(DownloadError):
    """The revision has another commit than before. For whoever runs the job, who lets the user choose."""

    commit: str


class Run:
    """`tell` is called with the record whenever it changes. Any thread may ask for the other public fields: bytes that
    are `done` and `received`, the `index` and name of the `file` on its way, whether it is being `checked`, `waiting`.
    """

    def __init__(
        self,
        record: JobRecord,
        place: Place,
        mirrors: Callable[[], Sequence[Mirror]],
        pace: Pace,
        reserve: int,
        stop: threading.Event,
        tell: Callable[[JobRecord], None],
    ) -> None:
        self.record, self._place = record, place
        self._make_mirrors, self._mirrors = mirrors, list[Mirror]()
        self._pace, self._reserve, self._stop, self._tell = pace, reserve, stop, tell
        self._transfers: list[Transfer] = []
        self._lost: list[Source] = []
        self._resolving: Waiting | None = None
        self._there, self._there_bytes = 0, 0

    @property
    def done(self) -> int:
        return self._there_bytes + sum(each.done for each in self._transfers)

    @property
    def index(self) -> int:
        return self._there + len(self._transfers)

    @property
    def file(self) -> str:
        """The one that has most to come yet."""
        under_way = self._under_way
        return max(under_way, key=lambda each: each.file.size - each.done).file.path if under_way else ""

    @property
    def received(self) -> int:
        return sum(each.received for each in self._transfers)

    @property
    def checked(self) -> bool:
        under_way = self._under_way
        return bool(under_way) and all(each.checked for each in under_way)

    @property
    def waiting(self) -> Waiting | None:
        under_way = self._under_way
        waits = [each.waiting for each in under_way] if under_way else [self._resolving]
        told = [each for each in waits if each]
        return min(told, key=lambda each: each.until) if len(told) == len(waits) else None

    @property
    def _under_way(self) -> list[Transfer]:
        return [each for each in list(self._transfers) if not each.ended]

    def run(self) -> None:
        """Until all files are in their places; then the mirrors are closed. BranchMoved, Stopped, another
        DownloadError."""
        self._mirrors = list(self._make_mirrors())
        try:
            self._go()
        finally:
            for mirror in self._mirrors:
                mirror.close()

    def _go(self) -> None:
        self._note(state="resolving")
        repository = self._resolved()
        if self.record.commit not in ("", repository.commit):
            raise BranchMoved(repository.commit)
        files = chosen(repository, self.record.wanted.files)
        if self.record.wanted.sha256:
            confirm(files, self.record.wanted.sha256)
        check([dataclasses.replace(each, path=self._place.name(each.path)) for each in files])  # none twice
        self._prepare()
        there_before = bool(self._place.target) and self._place.final.exists()  # its files are read first
        total = sum(each.size for each in files)
        state = "verifying" if there_before else "downloading"
        self._note(state=state, commit=repository.commit, total=total, count=len(files))
        missing = self._missing(repository, files)
        if there_before:
            self._note(state="downloading")
        self._check_room(missing)
        sources = [each.source(repository) for each in self._mirrors]
        try:
            self._fetch_all(missing, repository.commit, sources)
        finally:
            for source in sources:
                source.close()
        self._note(state="verifying")
        self._check_pickles(missing)
        parts = {file.path: part_file(self._place.part(number)) for number, file in missing.items()}
        self._place.publish(parts, metadata(repository, self.record.host, files))

    def _note(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        self._tell(self.record)

    # -- what there is ----------------------------------------------------------------------------------------------

    def _resolved(self) -> Repository:
        """What the first mirror that answers says; it comes first from then on."""
        wanted, tries = self.record.wanted, Tries(self._pace, self._mirrors, [])
        revision = self.record.commit if self.record.keep else wanted.revision
        while True:
            mirror = tries.mirror
            try:
                found = self._unless_stopped(partial(mirror.repository, wanted.repo, revision))
            except Stopped:
                raise
            except DownloadError as error:
                self._wait(tries.failed(error))
                continue
            self._mirrors.sort(key=lambda each: each is not mirror)
            self.record = dataclasses.replace(self.record, host=mirror.host)
            return dataclasses.replace(found, revision=wanted.revision)

    def _unless_stopped(self, ask: Callable[[], Repository]) -> Repository:
        """What `ask` returns. If it is to stop meanwhile, the question is left to find its own, quick end."""
        asking: Future[Repository] = Future()
        threading.Thread(target=_answer, args=(ask, asking), name="ask a mirror", daemon=True).start()
        while not self._stop.is_set():
            if concurrent.futures.wait([asking], _TICK_SECONDS).done:
                return asking.result()
        for mirror in self._mirrors:
            mirror.close()
        raise Stopped

    def _wait(self, waiting: Waiting | None) -> None:
        self._resolving = waiting
        if waiting and self._stop.wait(max(0.0, waiting.until - time.monotonic())):
            raise Stopped
        self._resolving = None

    # -- what is missing --------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The staging folder; what is left there of another commit is of no use."""
        with disk_faults(self._place.root, 0):
            if not self.record.commit:
                self._place.clear()
            self._place.staging.mkdir(parents=True, exist_ok=True)

    def _missing(self, repository: Repository, files: Sequence[RemoteFile]) -> dict[int, RemoteFile]:
        """Those not in their places yet, by their number in the repository."""
        numbers = {each.path: number for number, each in enumerate(repository.files)}
        there = {each for each in files if self._place.has(each, self._watch)}
        self._there, self._there_bytes = len(there), sum(each.size for each in there)
        return {numbers[each.path]: each for each in files if each not in there}

    def _watch(self, _: int) -> None:
        if self._stop.is_set():
            raise Stopped

    def _check_room(self, missing: dict[int, RemoteFile]) -> None:
        lacking = sum(each.size - allocated(self._place.part(number), each.size) for number, each in missing.items())
        check_room(self._place.root, lacking, self._reserve)

    def _check_pickles(self, missing: dict[int, RemoteFile]) -> None:
        """PickleRefused, PickleUnclear: before anything can load one."""
        for number, file in missing.items():
            if is_pickle(file.path):
                with disk_faults(self._place.root, 0):
                    scan(part_file(self._place.part(number)), file.path, self._watch)

    # -- what comes -------------------------------------------------------------------------------------------------

    def _fetch_all(self, missing: dict[int, RemoteFile], commit: str, sources: Sequence[Source]) -> None:
        """The small ones first, as many at a time as there may be connections; then each large one over all of them."""
        small = {number: each for number, each in missing.items() if each.size < self._pace.split_from}
        self._fetch_together(small, commit, sources)
        for number, file in missing.items():
            if number not in small:
                self._fetch(number, file, commit, sources, self._stop)

    def _fetch_together(self, files: dict[int, RemoteFile], commit: str, sources: Sequence[Source]) -> None:
        """Once one of them has failed, the others are let go of."""
        halt = _Halt(self._stop)
        with ThreadPoolExecutor(self._pace.connections, "files") as pool:
            fetching = [pool.submit(self._fetch, number, file, commit, sources, halt) for number, file in files.items()]
            concurrent.futures.wait(fetching, return_when=concurrent.futures.FIRST_EXCEPTION)
            halt.set()
            pool.shutdown(cancel_futures=True)
        faults = [fault for each in fetching if not each.cancelled() and (fault := each.exception())]
        for fault in sorted(faults, key=lambda each: isinstance(each, Stopped)):
            raise fault

    def _fetch(
        self, number: int, file: RemoteFile, commit: str, sources: Sequence[Source], stop: threading.Event
    ) -> None:
        made = Transfer(self._place.part(number), commit, file, sources, self._lost, self._pace, stop)
        self._transfers.append(made)
        made.run()


class _Halt(threading.Event):
    """Set by itself, and whenever `stop` is."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def is_set(self) -> bool:
        return super().is_set() or self._stop.is_set()


def chosen(repository: Repository, paths: Sequence[str] | None) -> tuple[RemoteFile, ...]:
    """The files called `paths`, or all. FileNotOnHub, NothingToDownload."""
    known = {each.path: each for each in repository.files}
    for path in paths or ():
        if path not in known:
            raise FileNotOnHub(repository.name, path, difflib.get_close_matches(path, known))
    found = tuple(known.values()) if paths is None else tuple(known[path] for path in dict.fromkeys(paths))
    if not found:
        raise NothingToDownload
    return found


def _answer(ask: Callable[[], Repository], to: Future[Repository]) -> None:
    try:
        to.set_result(ask())
    except DownloadError as error:
        to.set_exception(error)
    finally:
        if not to.done():
            to.cancel()
