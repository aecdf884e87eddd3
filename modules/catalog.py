"""What lies in a folder of models: one record for each GGUF file (or split set of them) and each folder of weights.

A model is known by what its own files say, not by its name. What was read is kept in memory until its file changes, so
scanning again reads nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modules.checkpoint import ABOUT, Checkpoint, read_about, read_weights
from modules.errors import DamagedModel, ModelNotFound, WebUIError
from modules.gguf import GgufHeader, read_header
from modules.options import Value, nearest
from modules.rawfile import readable

_UNFINISHED = (".part", ".incomplete", ".tmp")
_PART = re.compile(r"(.+)-[0-9]{5}-of-([0-9]{5})(\.[a-z]+)", re.IGNORECASE)
_FORMATS = {".safetensors": "safetensors", ".bin": "pytorch"}  # of plain weights, in order of preference
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")
_SHOWN = 3

Files = Mapping[Path, os.stat_result]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelRecord:
    """One model on disk. `format` is gguf, safetensors, pytorch, gptq, awq or exl2.

    `name` is the path below the folder of models; of a split GGUF, its first part's. `size` is in bytes, of the weights
    alone. What the files do not say is 0 or "". `problem` is why the model will not load. `defaults` holds the load
    options that follow from the files. `header` is a GGUF's, with the size of all its parts.
    """

    name: str
    path: Path
    format: str
    size: int
    architecture: str = ""
    quantisation: str = ""
    parameters: int = 0
    layers: int = 0
    context_length: int = 0
    chat_template: str = ""
    problem: WebUIError | None = None
    defaults: Mapping[str, Value] = field(default_factory=dict, hash=False)
    header: GgufHeader | None = field(default=None, compare=False, repr=False)


class Catalog:
    """The models in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # records are used by processes with another working directory
        self._known: dict[Path, tuple[tuple[int, int], Any]] = {}  # by file: its size and mtime_ns, what was read

    def models(self) -> list[ModelRecord]:
        """Every model, in natural order of names ("7B" before "13B"), the damaged ones with their `problem`."""
        found = (record for folder, files in _walk(self.folder) for record in self._records(folder, files))
        return sorted((record for record in found if record.path != self.folder), key=lambda each: _natural(each.name))

    @property
    def problem(self) -> DamagedModel | None:
        """Why nothing is listed, if that is because the folder is not there or not ours to read."""
        try:
            os.scandir(self.folder).close()
        except OSError as error:
            words = error.strerror or type(error).__name__
            problem = {"en": f"this folder cannot be read ({words}).", "zh": f"无法读取该文件夹（{words}）。"}
            return DamagedModel(readable(str(self.folder)), problem)
        return None

    def find(self, name: str, paths: bool = False) -> ModelRecord:
        """The model called `name`: by its whole name or, if only one is meant, without its folder or `.gguf`.

        With `paths`, for the command line only, `name` may be the path of any model. ModelNotFound if there is none.
        """
        listed = self.models()
        meant = [each for each in listed if each.name == name] or [each for each in listed if name in _nicknames(each)]
        if len(meant) == 1:
            return meant[0]
        for path in (Path(os.path.expanduser(name)), self.folder / name) if paths else ():
            if found := self._at(path, listed):
                return found
        raise ModelNotFound(name, meant[0].name if meant else nearest(name, [each.name for each in listed]))

    def _at(self, path: Path, listed: Iterable[ModelRecord]) -> ModelRecord | None:
        """The model at `path`: the listed one if it is among them."""
        path = Path(os.path.abspath(path))
        wanted = os.path.realpath(_first_part(path))
        folder = path if os.path.isdir(path) else path.parent  # Path.is_dir raises for a name too long
        found = itertools.chain(listed, self._records(folder, _listing(folder)[1]))
        return next((each for each in found if os.path.realpath(each.path) == wanted), None)

    def _records(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        """The models among the `files` of one `folder`."""
        sets: dict[Path, dict[Path, os.stat_result]] = {}
        for path, facts in files.items():
            if path.suffix.lower() == ".gguf":
                sets.setdefault(_first_part(path), {})[path] = facts
        for first, parts in sets.items():
            yield self._gguf(first, parts)
        weights = _weights(files) if folder / "config.json" in files else {}
        if weights:
            yield self._checkpoint(folder, files, weights)

    def _gguf(self, first: Path, parts: Files) -> ModelRecord:
        read = [self._remembered(part, facts, read_header) for part, facts in parts.items()]
        headers = [each for each in read if isinstance(each, GgufHeader)]
        record = ModelRecord(
            name=self._name(first),
            path=first,
            format="gguf",
            size=sum(facts.st_size for facts in parts.values()),
            problem=_first_problem(read) or _missing(first, _set_of(first), parts) or _misnamed(first, headers),
        )
        if not headers:
            return record
        head = headers[0]  # the files come sorted: this is the first part, unless that one is the problem
        return dataclasses.replace(
            record,
            architecture=head.architecture,
            quantisation=head.quantisation,
            parameters=sum(each.parameters for each in headers),
            layers=head.block_count,
            context_length=head.context_length,
            chat_template=head.chat_template,
            defaults=_said(head),
            header=dataclasses.replace(head, size=record.size),
        )

    def _checkpoint(self, folder: Path, files: Files, weights: Files) -> ModelRecord:
        present = [folder / name for name in ABOUT if folder / name in files]
        about = {path.name: self._remembered(path, files[path], read_about) for path in present}
        said = Checkpoint({name: each for name, each in about.items() if isinstance(each, dict)})
        suffix = next(iter(weights)).suffix.lower()
        expected = _expected(weights, {folder / part for part in said.parts(suffix)})
        weights = {path: facts for path, facts in weights.items() if path in expected} or weights
        read = [self._remembered(path, facts, read_weights) for path, facts in weights.items()]
        return ModelRecord(
            name=self._name(folder),
            path=folder,
            format=said.format or _FORMATS[suffix],
            size=sum(facts.st_size for facts in weights.values()),
            architecture=said.architecture,
            quantisation=said.quantisation,
            parameters=sum(each for each in read if isinstance(each, int) and not said.method),  # quantised: packed
            layers=said.layers,
            context_length=said.context_length,
            chat_template=said.chat_template,
            problem=_first_problem([*about.values(), *read]) or _missing(folder, expected, weights),
            defaults=said.defaults(),
        )

    def _name(self, path: Path) -> str:
        """The path below the folder of models; of a model elsewhere, the last part of its path."""
        inside = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        return readable(inside)

    def _remembered(self, path: Path, facts: os.stat_result, read: Callable[[Path], T]) -> T | DamagedModel:
        """What `read` makes of the file, or its complaint; read again only once the file has changed."""
        stamp = (facts.st_size, facts.st_mtime_ns)
        if path in self._known and self._known[path][0] == stamp:
            known: T | DamagedModel = self._known[path][1]
            return known
        try:
            found: T | DamagedModel = read(path)
        except DamagedModel as error:
            found = error.with_traceback(None)
        except OSError as error:  # not remembered: permissions change without the file changing
            return _unreadable(path, error)
        self._known[path] = (stamp, found)
        return found


def _walk(top: Path) -> Iterator[tuple[Path, Files]]:
    """Every folder from `top` down with its files. Links are followed, but never into a folder that holds them.

    Below a linked folder, further links are followed only to places not seen yet: a link to `/` must come to an end.
    """
    seen: set[str] = set()
    waiting = [(top, frozenset[str](), False)]
    while waiting:
        folder, above, below_link = waiting.pop()
        place, is_link = os.path.realpath(folder), folder.is_symlink()
        if place in above or (below_link and is_link and place in seen):
            continue
        seen.add(place)
        folders, files = _listing(folder)
        yield folder, files
        waiting += [(each, above | {place}, below_link or (is_link and folder != top)) for each in reversed(folders)]


def _listing(folder: Path) -> tuple[list[Path], Files]:
    """The folders and the files in `folder`, by name; neither hidden ones nor unfinished downloads."""
    folders: list[Path] = []
    files: dict[Path, os.stat_result] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # not there, no folder, or not ours to read
        return folders, files
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
            continue
        try:
            facts = entry.stat()
        except OSError:  # a link that leads nowhere
            continue
        if stat.S_ISDIR(facts.st_mode):
            folders.append(entry)
        elif stat.S_ISREG(facts.st_mode):
            files[entry] = facts
    return folders, files


def _weights(files: Files) -> Files:
    """The weight files among `files`, of the preferred kind alone."""
    by_suffix = {
        suffix: {
            path: facts
            for path, facts in files.items()
            if path.suffix.lower() == suffix and not path.name.startswith(_NOT_WEIGHTS)
        }
        for suffix in _FORMATS
    }
    return next((found for found in by_suffix.values() if found), {})


def _expected(weights: Files, indexed: set[Path]) -> set[Path]:
    """The weight files a checkpoint needs, chosen as transformers does: one whole file, else those of the index."""
    whole = {path for path in weights if path.stem in ("model", "pytorch_model")}
    return whole or indexed or {part for path in weights for part in _set_of(path)}


def _set_of(path: Path) -> list[Path]:
    """All parts of the split set that `path` belongs to; `path` alone if it is none."""
    if match := _PART.fullmatch(path.name):
        stem, total, suffix = match.groups()
        return [path.with_name(f"{stem}-{number:05}-of-{total}{suffix}") for number in range(1, int(total) + 1)]
    return [path]


def _first_part(path: Path) -> Path:
    match = _PART.fullmatch(path.name)
    return path.with_name(f"{match[1]}-00001-of-{match[2]}{match[3]}") if match else path


def _missing(model: Path, expected: Collection[Path], present: Collection[Path]) -> DamagedModel | None:
    lacking = sorted(readable(path.name) for path in set(expected) - set(present))
    if not lacking:
        return None
    named = ", ".join(lacking[:_SHOWN]) + (" …" if len(lacking) > _SHOWN else "")
    problem = {
        "en": f"{len(lacking)} of {len(expected)} parts are missing: {named}. Download them into the same folder.",
        "zh": f"共 {len(expected)} 个分卷，缺少 {len(lacking)} 个：{named}。请将其下载到同一文件夹。",
    }
    return DamagedModel(readable(model.name), problem)


def _misnamed(first: Path, headers: Sequence[GgufHeader]) -> DamagedModel | None:
    """llama.cpp finds the other parts of a set by their names alone."""
    count = headers[0].split_count if headers else 0
    if count < 2 or count == len(_set_of(first)):
        return None
    problem = {
        "en": f"this is one of {count} parts, which must be named like model-00001-of-{count:05}.gguf.",
        "zh": f"这是 {count} 个分卷之一，各分卷须按 model-00001-of-{count:05}.gguf 的形式命名。",
    }
    return DamagedModel(readable(first.name), problem)


def _unreadable(path: Path, error: OSError) -> DamagedModel:
    words = error.strerror or type(error).__name__
    problem = {"en": f"the file cannot be read ({words}).", "zh": f"无法读取该文件（{words}）。"}
    return DamagedModel(readable(path.name), problem)


def _first_problem(read: Iterable[object]) -> DamagedModel | None:
    return next((each for each in read if isinstance(each, DamagedModel)), None)


def _nicknames(record: ModelRecord) -> set[str]:
    """What `record` may be called instead of its name."""
    last = record.name.rpartition("/")[2]
    return {last, *(name[: -len(".gguf")] for name in (record.name, last) if name.lower().endswith(".gguf"))}


def _natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers by value; text and numbers alternate in it, so like always meets like."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _said(head: GgufHeader) -> dict[str, Value]:
    """The load options that a GGUF's header decides; what it leaves out is left to llama.cpp."""
    said: dict[str, Value] = {"n_ctx": head.context_length, "rope_freq_base": head.rope_freq_base}
    return {key: value for key, value in said.items() if value}
