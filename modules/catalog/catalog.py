"""What lies in a folder of models: one record for each GGUF file (or split set of them) and each folder of weights.

A model is known by what its own files say, not by its name. What was read is kept until its file changes, so scanning
again reads nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.catalog.duplicates import originals, read_sample
from modules.catalog.scan_cache import ReadCache, Reading
from modules.catalog.unsupported import FOLDERS, LOOSE, unsupported
from modules.core.errors import DamagedModel, IncompleteModel, ModelNotFound, ModelProblem, UnsupportedModel, Words
from modules.formats.checkpoint import DESCRIPTION_FILES, Checkpoint, indexed_files, read_description
from modules.formats.gguf_header import GgufHeader, merge_parts, read_header
from modules.formats.model_shape import ModelShape, sum_sizes
from modules.formats.safetensors_header import WeightHeader, read_weight_header
from modules.formats.weight_files import (
    FORMATS,
    all_parts,
    first_part,
    group_parts,
    has_weight_name,
    indexed_suffix,
    missing_config,
    missing_parts,
    needed_files,
    select_weights,
    weights_packing,
)
from modules.options.option import Value, nearest
from modules.system.directory_walk import Files, list_folder, resolve_subfolder, walk_folders
from modules.system.format_errors import printable

_HEADER = Reading("header", read_header, dataclasses.asdict, GgufHeader.from_json)
_ABOUT = Reading("about", read_description, dict, dict)
_WEIGHTS = Reading("weights", read_weight_header, dataclasses.asdict, WeightHeader.from_json)
_SAMPLE = Reading("sample", read_sample, str, str)


@dataclass(frozen=True)
class ModelRecord:
    """One model on disk. `format` is gguf, safetensors, pytorch, gptq, awq or exl2; of what no loader takes here also
    ggml, exl3, mlx or diffusers.

    `name` is the path below the folder of models; of a split GGUF, its first part's. `size` is in bytes, of the weights
    alone. What the files do not say is 0 or "". `problem` is why the model will not load. `duplicate_of` is the name of
    another model with the same weights. `defaults` holds the load options that follow from the files. `header` is a
    GGUF's, with the size of all its parts; `shape` is that of a folder of plain weights. `files` are those of the
    weights.
    """

    name: str
    path: Path
    format: str
    size: int
    architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    layers: int = 0
    context_length: int = 0
    chat_template: str = ""
    problem: ModelProblem | None = None
    duplicate_of: str = ""
    defaults: Mapping[str, Value] = field(default_factory=dict, hash=False)
    header: GgufHeader | None = field(default=None, compare=False, repr=False)
    shape: ModelShape | None = field(default=None, compare=False, repr=False)
    files: Files = field(default_factory=dict, compare=False, repr=False)

    @property
    def state(self) -> str:
        """ "incomplete", "damaged" or "unsupported"; "" of a model that can be loaded."""
        return self.problem.state if self.problem else ""


class Catalog:
    """The models in `folder`, which need not exist. What is read of them is kept in the file `cache`."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = Path(os.path.abspath(folder))  # records are used by processes with another working directory
        self._read = ReadCache(cache)
        self._scanning = threading.Lock()
        self._twins: Mapping[Hashable, str] = {}  # of the last scan: by `_identity`, whose duplicate it is

    def models(self) -> list[ModelRecord]:
        """Every model, in natural order of names ("7B" before "13B"), the broken ones with their `problem`.

        One thread scans at a time: whoever waited finds everything read.
        """
        with self._scanning:
            folders = list(walk_folders(self.folder))
            found = (record for folder, files in folders for record in self._records(folder, files))
            records = self._compared(sorted(found, key=lambda each: natural(each.name)))
            self._read.keep({path for _, files in folders for path in files})
            self._twins = {_identity(each): each.duplicate_of for each in records if each.duplicate_of}
        return records

    def _compared(self, records: list[ModelRecord]) -> list[ModelRecord]:
        """`records` with those marked that have the weights of an earlier one."""
        sound = [record.files if record.problem is None else {} for record in records]
        twins = originals(sound, self._sample)
        return [
            dataclasses.replace(record, duplicate_of=records[twins[at]].name) if at in twins else record
            for at, record in enumerate(records)
        ]

    def _sample(self, path: Path, facts: os.stat_result) -> str:
        sample = self._read.get(path, facts, _SAMPLE)
        return sample if isinstance(sample, str) else ""

    @property
    def problem(self) -> DamagedModel | None:
        """Why nothing is listed, if that is because the folder is not there or not ours to read."""
        try:
            os.scandir(self.folder).close()
        except OSError as error:
            words = error.strerror or type(error).__name__
            problem = {"en": f"this folder cannot be read ({words}).", "zh": f"无法读取该文件夹（{words}）。"}
            return DamagedModel(printable(str(self.folder)), problem)
        return None

    def find(self, name: str, paths: bool = False) -> ModelRecord:
        """The model called `name`: by its whole name or, if only one is meant, without its folder or `.gguf`.

        With `paths`, for the command line only, `name` may be the path of any model. ModelNotFound if there is none.
        A whole name costs a look at the folder it leads to; all others a scan.
        """
        if found := self.called(name):
            return found
        listed = self.models()
        meant = [each for each in listed if each.name == name] or [
            each for each in listed if name in nicknames(each.name)
        ]
        if len(meant) == 1:
            return meant[0]
        for path in (Path(os.path.expanduser(name)), self.folder / name) if paths else ():
            if found := self._at(path, listed):
                return found
        raise ModelNotFound(name, meant[0].name if meant else nearest(name, [each.name for each in listed]))

    def called(self, name: str) -> ModelRecord | None:
        """The model of exactly that name, without a scan. Whether it is a duplicate is what the last scan found."""
        *above, last = name.split("/")
        folder = resolve_subfolder(self.folder, above)
        if folder is None:
            return None
        _, files = list_folder(folder, lambda each: last in (each, first_part(Path(each)).name))
        inside = resolve_subfolder(self.folder, [*above, last])
        found = [*self._files(folder, files), *(self._folder(inside, list_folder(inside)[1]) if inside else ())]
        record = next((each for each in found if each.name == name), None)
        return record and dataclasses.replace(record, duplicate_of=self._twins.get(_identity(record), ""))

    def _at(self, path: Path, listed: Iterable[ModelRecord]) -> ModelRecord | None:
        """The model at `path`: the listed one if it is among them."""
        path = Path(os.path.abspath(path))
        wanted = os.path.realpath(first_part(path))
        folder = path if os.path.isdir(path) else path.parent  # Path.is_dir raises for a name too long
        found = itertools.chain(listed, self._records(folder, list_folder(folder)[1]))
        return next((each for each in found if os.path.realpath(each.path) == wanted), None)

    def _records(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        """The models among the `files` of one `folder`, and the one that it is."""
        return itertools.chain(self._files(folder, files), self._folder(folder, files))

    def _files(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        for first, parts in group_parts(files, {".gguf"}).items():
            yield self._gguf(first, parts)
        if folder == self.folder:
            for first, parts in group_parts(files, FORMATS).items():
                yield self._loose(first, parts)

    def _folder(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        if folder == self.folder:
            return
        if folder / "model_index.json" in files or folder / "config.json" in files:
            yield from self._checkpoint(folder, files, select_weights(files))
        elif folder / "adapter_config.json" not in files:
            named = {path: facts for path, facts in select_weights(files).items() if has_weight_name(path)}
            yield from self._checkpoint(folder, files, named)

    def _gguf(self, first: Path, parts: Files) -> ModelRecord:
        read = [self._read.get(part, facts, _HEADER) for part, facts in parts.items()]
        headers = [each for each in read if isinstance(each, GgufHeader)]
        problem = _first_problem(read) or missing_parts(first, all_parts(first), parts)
        record = ModelRecord(self._name(first), first, "gguf", _size(parts), problem=problem, files=parts)
        if not headers:
            return record
        head = headers[0]  # the files come sorted: this is the first part, unless that one is the problem
        return dataclasses.replace(
            described(record, merge_parts(headers, record.size)),
            problem=_foreign(first, unsupported(head)) or problem or _misnamed(first, head),
            parameters=sum(each.parameters for each in headers),
        )

    def _loose(self, first: Path, parts: Files) -> ModelRecord:
        """Weights that lie directly in the folder of models, without anything that describes them."""
        problem = _first_problem(self._read.get(part, facts, _WEIGHTS) for part, facts in parts.items())
        return ModelRecord(
            name=self._name(first),
            path=first,
            format=_plain_format(first.suffix, problem),
            size=_size(parts),
            problem=problem or _foreign(first, LOOSE),
            files=parts,
        )

    def _checkpoint(self, folder: Path, files: Files, found: Files) -> Iterator[ModelRecord]:
        """The one model that `folder` is, if weights were `found`, or there is an index that says which it needs."""
        present = [folder / name for name in DESCRIPTION_FILES if folder / name in files]
        about = {path.name: self._read.get(path, files[path], _ABOUT) for path in present}
        told = {name: each for name, each in about.items() if isinstance(each, dict)}
        suffix = next((path.suffix.lower() for path in found), indexed_suffix(folder, files))
        if not suffix and "model_index.json" not in about:
            return
        needed = needed_files(found, {folder / part for part in indexed_files(told, suffix)})
        used = {path: facts for path, facts in found.items() if path in needed} or found
        read = [self._read.get(path, facts, _WEIGHTS) for path, facts in used.items()]
        tensors = [each for each in read if isinstance(each, WeightHeader)]
        said, sizes = (
            Checkpoint(told, weights_packing(folder, used, tensors)),
            sum_sizes(each.sizes for each in tensors),
        )
        problem = _first_problem(about.values()) or _foreign(folder, FOLDERS.get(said.format)) or _first_problem(read)
        incomplete = missing_config(folder, files) or missing_parts(folder, needed, used)
        yield ModelRecord(
            name=self._name(folder),
            path=folder,
            format=said.format or _plain_format(suffix, problem),
            size=_size(used),
            architecture=said.architecture,
            quantization=said.quantization,
            parameters=0 if said.method else sizes.elements,  # quantised: packed
            layers=said.layers,
            context_length=said.context_length,
            chat_template=said.chat_template,
            problem=problem or incomplete,
            defaults=said.load_options(),
            shape=said.shape(sizes, _size(used)),
            files=used,
        )

    def _name(self, path: Path) -> str:
        """The path below the folder of models; of a model elsewhere, the last part of its path."""
        inside = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        return printable(inside)


def _identity(record: ModelRecord) -> Hashable:
    """Another one once its files have changed."""
    return record.name, *((facts.st_size, facts.st_mtime_ns) for facts in record.files.values())


def _size(files: Files) -> int:
    return sum(facts.st_size for facts in files.values())


def described(record: ModelRecord, head: GgufHeader) -> ModelRecord:
    """`record` of a GGUF model with what its header says of it."""
    return dataclasses.replace(
        record,
        architecture=head.architecture,
        quantization=head.quantization,
        parameters=head.parameters,
        layers=head.block_count,
        context_length=head.context_length,
        chat_template=head.chat_template,
        defaults=_said(head),
        header=head,
    )


def _plain_format(suffix: str, problem: ModelProblem | None) -> str:
    return "ggml" if isinstance(problem, UnsupportedModel) else FORMATS[suffix.lower()]


def _foreign(model: Path, why: Words | None) -> UnsupportedModel | None:
    return UnsupportedModel(printable(model.name), why) if why else None


def _misnamed(first: Path, head: GgufHeader) -> IncompleteModel | None:
    """llama.cpp finds the other parts of a set by their names alone."""
    count = head.split_count
    if count < 2 or count == len(all_parts(first)):
        return None
    problem = {
        "en": f"this is one of {count} parts, which must be named like model-00001-of-{count:05}.gguf.",
        "zh": f"这是 {count} 个分卷之一，各分卷须按 model-00001-of-{count:05}.gguf 的形式命名。",
    }
    return IncompleteModel(printable(first.name), problem)


def _first_problem(read: Iterable[object]) -> ModelProblem | None:
    return next((each for each in read if isinstance(each, ModelProblem)), None)


def nicknames(name: str) -> set[str]:
    """What the model of that name may be called instead."""
    last = name.rpartition("/")[2]
    return {last, *(each[: -len(".gguf")] for each in (name, last) if each.lower().endswith(".gguf"))}


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers by value; text and numbers alternate in it, so like always meets like."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _said(head: GgufHeader) -> dict[str, Value]:
    """The load options that a GGUF's header decides; what it leaves out is left to llama.cpp."""
    said: dict[str, Value] = {"n_ctx": head.context_length, "rope_freq_base": head.rope_freq_base}
    return {key: value for key, value in said.items() if value}
