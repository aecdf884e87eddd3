"""Create a model folder for the llamacpp_HF loader: a GGUF file together with its tokenizer's files.

The tokenizer comes from the repository of the unquantized model. The GGUF file is moved last, so that it stays where it
is if anything fails before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.config.model_settings import ModelSettings
from modules.core.errors import InternalError, ModelInUse, SettingsError, Unsupported, WebUIError
from modules.core.product import LOG_FILE
from modules.downloads.disk import disk_errors
from modules.downloads.errors import TargetExists
from modules.downloads.install_files import METADATA
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.formats.tokenizer_files import VOCABULARIES
from modules.formats.weight_files import set_name
from modules.hub.errors import Stopped, TokenizerMissing
from modules.hub.mirrors import Mirrors
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import Repository
from modules.runtime.model_manager import ModelManager

LOADER = "llamacpp_HF"
TOKENIZER_FILES = {
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "vocab.txt"),
    *("chat_template.jinja", "chat_template.json", "config.json", "generation_config.json"),
}
"""The files to download from the repository: never weights, never code."""

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class CreatedModel:
    """The model's new `name` and `folder`. `problem` is why its saved settings could not be taken over, if so."""

    name: str
    folder: Path
    problem: WebUIError | None = None


class CreationTask:
    """A creation in progress; any thread may read it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.outcome: Future[CreatedModel] = Future()
        self.download: JobView | None = None


class LlamacppHfCreator:
    """Creates model folders, each in a thread of its own."""

    def __init__(
        self,
        catalog: Catalog,
        model_settings: ModelSettings,
        models: ModelManager,
        downloads: DownloadManager,
        mirrors: Mirrors,
    ) -> None:
        self._catalog, self._model_settings, self._models = catalog, model_settings, models
        self._downloads, self._mirrors = downloads, mirrors
        self._busy: set[Path] = set()
        self._lock = threading.Lock()  # guards `_busy`

    def models(self) -> list[str]:
        """Return the names of the complete GGUF models."""
        records = self._catalog.models(LIST_SECONDS)
        return [record.name for record in records if record.format == "gguf" and record.problem is None]

    def start(self, model: str, address: str) -> CreationTask:
        """Start a creation in a thread that continues if the page is closed.

        Raises WebUIError if `model` or `address` are not suitable. Later errors are raised by the task's outcome:
        DownloadError or ModelInUse.
        """
        record, repo = self._catalog.find(model), self._mirrors.parse_address(address)
        self._check_model(record)
        task = CreationTask(record.name)
        with self._lock:
            if self._folder(record) in self._busy:
                raise ModelInUse(record.name)
            self._busy.add(self._folder(record))
        threading.Thread(target=self._work, args=(task, record, repo), name="llamacpp_HF creator", daemon=True).start()
        return task

    def _work(self, task: CreationTask, record: ModelRecord, address: RepoAddress) -> None:
        try:
            task.outcome.set_result(self._create(task, record, address))
        except WebUIError as error:
            task.outcome.set_exception(error)
        finally:
            with self._lock:
                self._busy.discard(self._folder(record))
            if not task.outcome.done():  # an unexpected exception must not leave the page waiting
                task.outcome.set_exception(InternalError(LOG_FILE))

    def _check_model(self, record: ModelRecord) -> None:
        """Check that the model can be moved now. Raises WebUIError."""
        if record.problem is not None:
            raise record.problem
        if record.format != "gguf":
            raise Unsupported(
                {"en": f"{record.name} is not a GGUF file.", "zh": f"{record.name} 不是 GGUF 文件。"},
            )
        if any(one.name == record.name and one.state in ("loading", "ready") for one in self._models.residents()):
            raise ModelInUse(record.name)
        folder = self._folder(record)
        if os.path.lexists(folder) and not _is_leftover(folder):
            raise TargetExists(str(folder))

    def _folder(self, record: ModelRecord) -> Path:
        return self._catalog.folder / f"{set_name(record.path)}-HF"

    def _create(self, task: CreationTask, record: ModelRecord, address: RepoAddress) -> CreatedModel:
        folder = self._folder(record)
        files = tokenizer_files(self._mirrors.repository(address), address.folder)
        spec = DownloadSpec(address.repo, address.revision, folder.name, files, flat=True)
        self._await_download(task, self._downloads.start(spec), folder)
        try:
            self._check_model(record)
            _move_all(sorted(record.files), folder)
        except WebUIError:
            _remove_leftover(folder)
            raise
        name = f"{folder.name}/{record.path.name}"
        return CreatedModel(name, folder, self._take_over_settings(record.name, name))

    def _await_download(self, task: CreationTask, job: str, folder: Path) -> None:
        """Wait until the download is done, however often the user pauses and resumes it. Raises DownloadError."""
        while True:
            view = task.download = next((view for view in self._downloads.snapshot() if view.id == job), None)
            # A job that is no longer listed was done if its files are present, and cancelled otherwise.
            if (view is None and not _is_leftover(folder)) or (view and view.state == "cancelled"):
                raise Stopped
            if view is None or view.state == "done":
                return
            if view.error:
                self._downloads.cancel(job)
                self._downloads.forget(job)
                raise view.error
            time.sleep(_TICK_SECONDS)

    def _take_over_settings(self, old: str, new: str) -> SettingsError | None:
        """Rename the model's saved settings and save llamacpp_HF as its loader. Returns the error if that fails."""
        try:
            self._model_settings.rename(old, new)
            self._model_settings.save(new, LOADER, {}, ())
        except SettingsError as error:
            return error
        return None


def tokenizer_files(repository: Repository, folder: str = "") -> tuple[str, ...]:
    """Return the paths of the tokenizer's files directly in `folder`. Raises TokenizerMissing."""
    prefix = f"{folder}/" if folder else ""
    names = {file.path.removeprefix(prefix) for file in repository.files}
    tokenizer_files = sorted(name for name in names if _is_tokenizer_file(name))
    if "tokenizer_config.json" not in tokenizer_files or not set(VOCABULARIES).intersection(tokenizer_files):
        raise TokenizerMissing(repository.name)
    return tuple(prefix + name for name in tokenizer_files)


def _is_tokenizer_file(name: str) -> bool:
    return name in TOKENIZER_FILES or (name.endswith(".tiktoken") and "/" not in name)


def _is_leftover(folder: Path) -> bool:
    """Whether `folder` contains what an earlier, interrupted creation has downloaded, and nothing else."""
    if folder.is_symlink() or not folder.is_dir() or not (folder / METADATA).is_file():
        return False
    return all(path.is_file() and (path.name == METADATA or _is_tokenizer_file(path.name)) for path in folder.iterdir())


def _remove_leftover(folder: Path) -> None:
    if _is_leftover(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _move_all(files: Iterable[Path], folder: Path) -> None:
    """Move all files into `folder`, or none of them. Raises DiskRefused or DiskFull."""
    with disk_errors(folder, 0), contextlib.ExitStack() as undo:
        for file in files:
            _move(file, folder / file.name)
            undo.callback(_move, folder / file.name, file)
        undo.pop_all()


def _move(file: Path, destination: Path) -> None:
    if not file.is_symlink():
        os.rename(file, destination)
        return
    # A relative link would lead elsewhere from another folder.
    os.symlink(file.parent / os.readlink(file), destination)
    file.unlink()
