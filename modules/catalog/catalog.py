"""List and find the models in a folder: each GGUF file (or split set of them), and each folder of weights.

Models are recognized by the content of their files, not by name. What was read is cached until a file changes, so
that another scan reads nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from modules.catalog.background_scan import FIND_SECONDS, BackgroundScan
from modules.catalog.duplicates import find_duplicates
from modules.catalog.projectors import MARK
from modules.catalog.record import ModelRecord, natural_key, short_names
from modules.catalog.record_reader import RecordReader
from modules.catalog.scan_cache import ScanCache
from modules.core.errors import DamagedModel, ModelNotFound
from modules.formats.weight_files import first_part
from modules.options.option import nearest
from modules.system.directory_walk import list_folder, resolve_subfolder, walk_folders
from modules.system.format_errors import printable

ABSENT_SECONDS = 3.0
"""How long it is remembered that there is no model of a name: looking for one takes a scan."""
_MAX_ABSENT, _MAX_ABSENT_NAME = 1000, 200


class Catalog:
    """The models in `folder`, which need not exist. What is read from them is kept in the file `cache`."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = Path(os.path.abspath(folder))  # records are used by processes with another working directory
        self._cache = ScanCache(cache)
        self._reader = RecordReader(self.folder, self._cache)
        self._scan = BackgroundScan(self._find_records, self._complete)
        self._absent: dict[str, float] = {}  # names that were not found, and when
        self._duplicates: Mapping[Hashable, str] = {}  # of the last scan: originals' names by `_identity`

    def models(self, seconds: float | None = None) -> list[ModelRecord]:
        """Scan the folder and return all models in natural order of names; broken ones have a `problem`.

        After `seconds`, return those known so far; the scan goes on in the background.
        """
        return sorted(self._scan.items(seconds), key=lambda record: natural_key(record.name))

    @property
    def is_scanning(self) -> bool:
        """Whether a scan goes on, so that `models` may have returned only some of them."""
        return self._scan.is_running

    def _find_records(self) -> Iterator[ModelRecord]:
        for folder, files in walk_folders(self.folder):
            yield from self._reader.records(folder, files)

    def _complete(self, records: list[ModelRecord]) -> list[ModelRecord]:
        records = _without_parts(sorted(records, key=lambda record: natural_key(record.name)))
        records = self._mark_duplicates(records)
        self._cache.forget_unused()
        self._duplicates = {_identity(record): record.duplicate_of for record in records if record.duplicate_of}
        return records

    def _mark_duplicates(self, records: list[ModelRecord]) -> list[ModelRecord]:
        loadable = [record.files if record.problem is None else {} for record in records]
        originals = find_duplicates(loadable, self._reader.sample)
        return [
            dataclasses.replace(record, duplicate_of=records[originals[index]].name) if index in originals else record
            for index, record in enumerate(records)
        ]

    @property
    def problem(self) -> DamagedModel | None:
        """The reason why nothing is listed, if the folder is missing or cannot be read."""
        try:
            os.scandir(self.folder).close()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            problem = {"en": f"this folder cannot be read ({reason}).", "zh": f"无法读取该文件夹（{reason}）。"}
            return DamagedModel(printable(str(self.folder)), problem)
        return None

    def find(self, name: str, paths: bool = False) -> ModelRecord:
        """Return the model called `name`: its full name or, if that is unique, without its folder or `.gguf`.

        With `paths`, for the command line only, `name` may be the path of any model. A full name only reads the folder
        it leads to; all others take a scan. Raises ModelNotFound.
        """
        if record := self.find_exact(name):
            return record
        listed = self.models(FIND_SECONDS)
        matches = [record for record in listed if record.name == name] or [
            record for record in listed if name in short_names(record.name)
        ]
        if len(matches) == 1:
            return matches[0]
        for path in (Path(os.path.expanduser(name)), self.folder / name) if paths else ():
            if record := self._find_path(path, listed):
                return record
        self._remember_absent(name)
        raise ModelNotFound(name, matches[0].name if matches else nearest(name, [record.name for record in listed]))

    def _remember_absent(self, name: str) -> None:
        if len(self._absent) >= _MAX_ABSENT:
            self._absent.clear()
        if len(name) <= _MAX_ABSENT_NAME:
            self._absent[name] = time.monotonic()

    def was_absent(self, name: str) -> bool:
        """Whether `find` has raised ModelNotFound for that name a moment ago."""
        seen = self._absent.get(name)
        return seen is not None and time.monotonic() - seen < ABSENT_SECONDS

    def find_exact(self, name: str) -> ModelRecord | None:
        """Return the model of exactly that name, without a scan; `duplicate_of` is as of the last scan."""
        *parents, last = name.split("/")
        folder = resolve_subfolder(self.folder, parents)
        if folder is None:
            return None
        _, files = list_folder(
            folder, lambda entry: last in (entry, first_part(Path(entry)).name) or MARK in entry.lower()
        )
        records = list(self._reader.file_records(folder, files))
        if subfolder := resolve_subfolder(self.folder, [*parents, last]):
            records += self._reader.folder_records(subfolder, list_folder(subfolder)[1])
        record = next((record for record in records if record.name == name), None)
        if record is None or self._is_part(record, parents):
            return None
        return dataclasses.replace(record, duplicate_of=self._duplicates.get(_identity(record), ""))

    def _is_part(self, record: ModelRecord, parents: list[str]) -> bool:
        """Whether a model in one of the folders `parents` has the files of `record` in its index."""
        folders = (resolve_subfolder(self.folder, parents[:depth]) for depth in range(1, len(parents) + 1))
        models = [
            model
            for folder in folders
            if folder is not None
            for model in self._reader.folder_records(folder, list_folder(folder)[1])
        ]
        return record not in _without_parts([*models, record])

    def _find_path(self, path: Path, listed: Sequence[ModelRecord]) -> ModelRecord | None:
        """Return the model at `path`: the listed record if there is one, before others that link to its files."""
        path = Path(os.path.abspath(path))
        first, real = first_part(path), os.path.realpath(first_part(path))
        folder = path if os.path.isdir(path) else path.parent  # Path.is_dir raises for a name too long
        itself = [record for record in listed if record.path == first]
        records = itertools.chain(itself, listed, self._reader.records(folder, list_folder(folder)[1]))
        return next((record for record in records if os.path.realpath(record.path) == real), None)


def _without_parts(records: list[ModelRecord]) -> list[ModelRecord]:
    """Drop the records of subfolders whose files are in the index of a model above them."""
    below = {path for record in records for path in record.files if not _is_beside(path, record)}
    return [
        record
        for record in records
        if not (record.files and below.issuperset(record.files))
        or not all(_is_beside(path, record) for path in record.files)
    ]


def _is_beside(path: Path, record: ModelRecord) -> bool:
    return path.parent in (record.path, record.path.parent)


def _identity(record: ModelRecord) -> Hashable:
    """Return a key that changes once the model's files have changed."""
    return record.name, *((status.st_size, status.st_mtime_ns) for status in record.files.values())
