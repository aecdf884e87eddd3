"""One run of a download job: resolve the revision, transfer the missing files, verify and install them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import difflib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules.downloads.checksum import check_listed_sha256
from modules.downloads.context import DownloadContext, Mirror, TransferContext
from modules.downloads.disk import check_space, disk_errors
from modules.downloads.file_transfer import FileTransfer
from modules.downloads.install_files import InstallTarget, metadata_text
from modules.downloads.partial_file import allocated_bytes
from modules.downloads.pickle_scan import scan_pickles
from modules.downloads.record import JobRecord
from modules.downloads.retry import MirrorRotation, RetryWait
from modules.formats.weight_files import is_pickle
from modules.hub.errors import DownloadError, FileNotOnHub, NothingToDownload, Stopped
from modules.hub.repository import RemoteFile, Repository
from modules.hub.safe_paths import check_files

_TICK_SECONDS = 0.1


@dataclass(eq=False)
class BranchMoved(DownloadError):
    """The revision points to another commit than before. The job manager lets the user choose."""

    commit: str


class DownloadRun:
    """Runs one job until its files are installed, or until `stop` is set.

    `on_change` is called with the record whenever it changes. Any thread may read the public properties.
    """

    def __init__(
        self,
        context: DownloadContext,
        record: JobRecord,
        target: InstallTarget,
        stop: threading.Event,
        on_change: Callable[[JobRecord], None],
    ) -> None:
        self.record = record
        self._context, self._target, self._stop, self._on_change = context, target, stop, on_change
        self._mirrors: list[Mirror] = []
        self._transfers: list[FileTransfer] = []
        self._resolving: RetryWait | None = None
        self._present_files, self._present_bytes = 0, 0

    # -- progress ----------------------------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        """Bytes present."""
        return self._present_bytes + sum(transfer.done for transfer in self._transfers)

    @property
    def received(self) -> int:
        """Bytes received over the network."""
        return sum(transfer.received for transfer in self._transfers)

    @property
    def index(self) -> int:
        """Number of files that are present or have been started."""
        return self._present_files + len(self._transfers)

    @property
    def file(self) -> str:
        """The path of the active file with most bytes missing, or ""."""
        active = self._active
        return max(active, key=lambda transfer: transfer.file.size - transfer.done).file.path if active else ""

    @property
    def verifying(self) -> bool:
        """Whether all active files are being read back to be verified."""
        active = self._active
        return bool(active) and all(transfer.checked for transfer in active)

    @property
    def waiting(self) -> RetryWait | None:
        """The next retry, if nothing else is active."""
        active = self._active
        waits = [transfer.waiting for transfer in active] if active else [self._resolving]
        pending = [wait for wait in waits if wait]
        return min(pending, key=lambda wait: wait.until) if len(pending) == len(waits) else None

    @property
    def _active(self) -> list[FileTransfer]:
        return [transfer for transfer in list(self._transfers) if not transfer.ended]

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Download and install all files. Raises BranchMoved, Stopped or another DownloadError."""
        self._mirrors = list(self._context.open_mirrors())
        try:
            self._run()
        finally:
            for mirror in self._mirrors:
                mirror.close()

    def _run(self) -> None:
        self._update(state="resolving")
        repository = self._resolve()
        if self.record.commit not in ("", repository.commit):
            raise BranchMoved(repository.commit)
        files = select_paths(repository, self.record.spec.files)
        if self.record.spec.sha256:
            check_listed_sha256(files, self.record.spec.sha256)
        # The target may drop folders, so two files could get the same name.
        check_files([dataclasses.replace(file, path=self._target.path_in_folder(file.path)) for file in files])
        self._prepare_staging()
        missing = self._find_missing(repository, files)
        self._check_space(missing)
        self._transfer_all(missing, repository)
        self._update(state="verifying")
        self._scan_pickles(missing)
        parts = {file.path: self._target.part_path(number) for number, file in missing.items()}
        self._target.install(parts, metadata_text(repository, self.record.host, files))

    def _update(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        self._on_change(self.record)

    # -- resolving ---------------------------------------------------------------------------------------------------

    def _resolve(self) -> Repository:
        """Return the file list of the first mirror that answers; that mirror is preferred from then on."""
        spec, rotation = self.record.spec, MirrorRotation(self._context.options.retry, self._mirrors, [])
        revision = self.record.commit if self.record.keep else spec.revision
        while True:
            mirror = rotation.current
            try:
                repository = self._unless_stopped(partial(mirror.repository, spec.repo, revision))
            except Stopped:
                raise
            except DownloadError as error:
                self._wait(rotation.record_failure(error))
                continue
            self._mirrors.sort(key=lambda other: other is not mirror)
            self.record = dataclasses.replace(self.record, host=mirror.host)
            return dataclasses.replace(repository, revision=spec.revision)

    def _unless_stopped(self, request: Callable[[], Repository]) -> Repository:
        """Return the result of `request`, which runs in a thread. Raises Stopped as soon as the run is to stop."""
        answer: Future[Repository] = Future()
        threading.Thread(target=_resolve_into, args=(answer, request), name="ask a mirror", daemon=True).start()
        while not self._stop.is_set():
            if concurrent.futures.wait([answer], _TICK_SECONDS).done:
                return answer.result()
        for mirror in self._mirrors:
            mirror.close()
        raise Stopped

    def _wait(self, waiting: RetryWait | None) -> None:
        self._resolving = waiting
        if waiting and self._stop.wait(max(0.0, waiting.until - time.monotonic())):
            raise Stopped
        self._resolving = None

    # -- files already present ---------------------------------------------------------------------------------------

    def _prepare_staging(self) -> None:
        """Create the staging folder, and empty it when a job starts with a new commit."""
        with disk_errors(self._target.root, 0):
            if not self.record.commit:
                self._target.clear_staging()
            self._target.staging.mkdir(parents=True, exist_ok=True)

    def _find_missing(self, repository: Repository, files: Sequence[RemoteFile]) -> dict[int, RemoteFile]:
        """Return the files that are not installed yet, by their number in the repository."""
        # Files of an existing target are read and hashed, which may take long.
        verify_first = bool(self._target.folder) and self._target.final.exists()
        self._update(
            state="verifying" if verify_first else "downloading",
            commit=repository.commit,
            total=sum(file.size for file in files),
            count=len(files),
        )
        present = {file for file in files if self._target.has(file, self._check_stopped)}
        self._present_files, self._present_bytes = len(present), sum(file.size for file in present)
        if verify_first:
            self._update(state="downloading")
        numbers = {file.path: number for number, file in enumerate(repository.files)}
        return {numbers[file.path]: file for file in files if file not in present}

    def _check_stopped(self, _: int = 0) -> None:
        if self._stop.is_set():
            raise Stopped

    def _check_space(self, missing: Mapping[int, RemoteFile]) -> None:
        sizes = (
            file.size - allocated_bytes(self._target.part_path(number), file.size) for number, file in missing.items()
        )
        check_space(self._target.root, sum(sizes), self._context.reserve)

    # -- transfers ---------------------------------------------------------------------------------------------------

    def _transfer_all(self, missing: Mapping[int, RemoteFile], repository: Repository) -> None:
        """Transfer small files concurrently, then every large file over several connections."""
        sources = tuple(mirror.source(repository) for mirror in self._mirrors)
        options = self._context.options
        context = TransferContext(repository.commit, sources, options, self._stop)
        try:
            small = {number: file for number, file in missing.items() if file.size < options.split_from}
            self._transfer_concurrently(small, context)
            for number, file in missing.items():
                if number not in small:
                    self._transfer(number, file, context)
        finally:
            for source in sources:
                source.close()

    def _transfer_concurrently(self, files: Mapping[int, RemoteFile], context: TransferContext) -> None:
        """Transfer several files at once; when one fails, the others are stopped."""
        stop = _LinkedEvent(self._stop)
        context = dataclasses.replace(context, stop=stop)
        with ThreadPoolExecutor(context.options.connections, "files") as pool:
            futures = [pool.submit(self._transfer, number, file, context) for number, file in files.items()]
            concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
            stop.set()
            pool.shutdown(cancel_futures=True)
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error

    def _transfer(self, number: int, file: RemoteFile, context: TransferContext) -> None:
        transfer = FileTransfer(context, file, self._target.part_path(number))
        self._transfers.append(transfer)
        transfer.run()

    def _scan_pickles(self, missing: Mapping[int, RemoteFile]) -> None:
        """Scan downloaded pickles before anything can load them. Raises PickleRefused or PickleUnclear."""
        for number, file in missing.items():
            if is_pickle(file.path):
                with disk_errors(self._target.root, 0):
                    scan_pickles(self._target.part_path(number), file.path, self._check_stopped)


class _LinkedEvent(threading.Event):
    """An event that also counts as set while `parent` is set."""

    def __init__(self, parent: threading.Event) -> None:
        super().__init__()
        self._parent = parent

    def is_set(self) -> bool:
        return super().is_set() or self._parent.is_set()


def select_paths(repository: Repository, paths: Sequence[str] | None) -> tuple[RemoteFile, ...]:
    """Return the files at `paths`, or all files if None. Raises FileNotOnHub or NothingToDownload."""
    files = {file.path: file for file in repository.files}
    for path in paths or ():
        if path not in files:
            raise FileNotOnHub(repository.name, path, difflib.get_close_matches(path, files))
    selected = tuple(files.values()) if paths is None else tuple(files[path] for path in dict.fromkeys(paths))
    if not selected:
        raise NothingToDownload
    return selected


def _resolve_into(answer: Future[Repository], request: Callable[[], Repository]) -> None:
    try:
        answer.set_result(request())
    except DownloadError as error:
        answer.set_exception(error)
    finally:
        if not answer.done():  # an unexpected exception must not leave the run waiting
            answer.cancel()
