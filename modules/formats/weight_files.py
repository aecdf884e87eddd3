"""Weight files of a model within a folder: which belong together, which are needed, which are missing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import IncompleteModel, UnsupportedModel
from modules.formats.quantization import PLAIN, Packing, packing_from_names
from modules.formats.safetensors_header import WeightHeader
from modules.system.directory_walk import Files
from modules.system.format_errors import printable

FORMATS = {".safetensors": "safetensors", ".bin": "pytorch", ".pt": "pytorch"}
"""The format of plain weights by file suffix, in order of preference."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that PyTorch pickles, and that may therefore run code."""

_INDEXES = {"model.safetensors.index.json": ".safetensors", "pytorch_model.bin.index.json": ".bin"}
_WHOLE = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
"""The name of the only weight file, by suffix; transformers looks for it before it looks for the index."""
ADAPTER_CONFIG = "adapter_config.json"
_OTHER_PROGRAMS = {
    "original": re.compile(r"consolidated.*\.(safetensors|pth|pt|bin)"),
    "tensorflow": re.compile(r"tf_model.*\.h5"),
    "flax": re.compile(r"flax_model.*\.msgpack"),
    "onnx": re.compile(r".*\.onnx"),
}
"""Names of weights that transformers does not read, by the format that a record states."""
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)", re.IGNORECASE)
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")
_MAX_NAMES_SHOWN = 3

Indexed = Callable[[str], Collection[Path]]
"""Return the weight files that the index for a suffix names; empty without an index."""


def select_weights(files: Files) -> Files:
    """Return the weight files among those of one folder, of the preferred suffix alone.

    A .pt may hold anything: it counts if its name or the folder's states a quantization.
    """
    by_suffix = (
        {path: status for path, status in files.items() if path.suffix.lower() == suffix and _may_hold_weights(path)}
        for suffix in FORMATS
    )
    return next((weights for weights in by_suffix if weights), {})


def _may_hold_weights(path: Path) -> bool:
    if path.name.startswith(_NOT_WEIGHTS):
        return False
    return path.suffix.lower() != ".pt" or packing_from_names(path.parent.name, path.name) != PLAIN


def weights_packing(folder: Path, weights: Iterable[Path], headers: Iterable[WeightHeader]) -> Packing:
    """Return the packing that the headers show; for files without such headers, the one that the names state."""
    names = [path.name for path in weights if path.suffix.lower() != ".safetensors"]
    if names:
        return packing_from_names(folder.name, *names)
    return next((header.packing for header in headers if header.packing != PLAIN), PLAIN)


def indexed_suffix(folder: Path, files: Files) -> str:
    """Return the suffix of the weight files that an index in `folder` names; "" without an index."""
    return next((suffix for name, suffix in _INDEXES.items() if folder / name in files), "")


def has_weight_name(path: Path) -> bool:
    """Return whether only weights have such a name: a .bin without config.json beside it may be anything."""
    signs = ("pytorch_model" in path.name, "ggml" in path.name.lower(), len(all_parts(path)) > 1)
    return path.suffix.lower() != ".bin" or any(signs)


def foreign_format(files: Iterable[Path]) -> str:
    """Return the format of weights that transformers does not read; "" if there are none."""
    names = [path.name for path in files]
    return next((kind for kind, name in _OTHER_PROGRAMS.items() if any(map(name.fullmatch, names))), "")


@dataclass(frozen=True)
class WeightChoice:
    """The weight files that a checkpoint needs, present or not. `rivals` are sets of which each is a whole model."""

    needed: frozenset[Path]
    rivals: tuple[str, ...] = ()


def choose_weights(
    weights: Files, indexed: Collection[Path], tensors_of: Callable[[Path], Collection[str]]
) -> WeightChoice:
    """Choose the weight files of a checkpoint: one whole file, else those of the index, else the set that is there.

    An index of which no file is there belongs to weights that were split or merged anew.
    `tensors_of` returns the names of the tensors in a .safetensors file. It is asked only if there are several sets of
    files, none of which is called as transformers would: they are one model if no tensor is in two of them.
    """
    if whole := {path for path in weights if path.name in _WHOLE.values()}:
        return WeightChoice(frozenset(whole))
    if indexed and not (weights and weights.keys().isdisjoint(indexed)):
        return WeightChoice(frozenset(indexed))
    sets = _preferred_sets(weights)
    needed = frozenset(part for parts in sets for part in parts)
    if len(sets) < 2 or (needed <= weights.keys() and _are_disjoint([tensors_of(part) for part in sorted(needed)])):
        return WeightChoice(needed)
    return WeightChoice(needed, tuple(sorted(set_name(next(iter(parts))) for parts in sets)))


def _preferred_sets(weights: Files) -> list[list[Path]]:
    """Return the sets of parts to choose from: complete ones, and of them the one called as transformers would."""
    named = {path: status for path, status in weights.items() if has_weight_name(path)} or weights
    sets = [all_parts(first) for first in {first_part(path): None for path in named}]
    complete = [parts for parts in sets if weights.keys() >= set(parts)] or sets
    usual = [parts for parts in complete if set_name(parts[0]) in ("model", "pytorch_model")]
    return usual[:1] or complete


def _are_disjoint(groups: Sequence[Collection[str]]) -> bool:
    return all(groups) and len({name for group in groups for name in group}) == sum(map(len, groups))


def is_found_by_transformers(folder: Path, files: Container[Path], choice: WeightChoice, indexed: Indexed) -> bool:
    """Whether transformers, given `folder`, would read the chosen files, and nothing else.

    `indexed` returns the files that the index for a suffix names. An adapter in the folder would be applied as well.
    """
    if folder / ADAPTER_CONFIG in files:
        return False
    for index, suffix in _INDEXES.items():
        if folder / _WHOLE[suffix] in files:
            return choice.needed == {folder / _WHOLE[suffix]}
        if folder / index in files:
            return choice.needed == set(indexed(suffix))
    return False


def files_below(folder: Path, indexed: Iterable[Path]) -> Files:
    """Return those of the `indexed` files that lie in subfolders of `folder`, with their status."""
    found = {}
    for path in sorted(set(indexed)):
        parts = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
        if len(parts) > 1 and ".." not in parts:
            with contextlib.suppress(OSError):
                found[path] = path.stat()
    return found


def group_parts(files: Files, suffixes: Container[str]) -> dict[Path, Files]:
    """Return the files with one of `suffixes`, the parts of a split file together under the first part's path."""
    groups: dict[Path, dict[Path, os.stat_result]] = {}
    for path, status in files.items():
        if path.suffix.lower() in suffixes and _may_hold_weights(path):
            groups.setdefault(first_part(path), {})[path] = status
    return dict(groups)


def all_parts(path: Path) -> list[Path]:
    """Return all parts of the split file that `path` belongs to; `path` alone if it is not split."""
    return list(iterate_parts(path))


def iterate_parts(path: Path) -> Iterator[Path]:
    """Yield what `all_parts` returns, one by one: a name may claim 99999 parts."""
    if match := _PART.fullmatch(path.name):
        stem, _, total, suffix = match.groups()
        yield from (path.with_name(f"{stem}-{number:05}-of-{total}{suffix}") for number in range(1, int(total) + 1))
    else:
        yield path


def first_part(path: Path) -> Path:
    match = _PART.fullmatch(path.name)
    return path.with_name(f"{match[1]}-00001-of-{match[3]}{match[4]}") if match else path


def set_name(path: Path) -> str:
    """Return the name without suffix; of a part of a split file, also without its number."""
    match = _PART.fullmatch(path.name)
    return match[1] if match else path.stem


def missing_parts(model: Path, needed: Collection[Path], present: Collection[Path]) -> IncompleteModel | None:
    """Return the problem of `model` if some of the files it needs are not present."""
    missing = sorted(printable(path.name) for path in set(needed) - set(present))
    if not missing:
        return None
    names = ", ".join(missing[:_MAX_NAMES_SHOWN]) + (" …" if len(missing) > _MAX_NAMES_SHOWN else "")
    problem = {
        "en": f"{len(missing)} of {len(needed)} parts are missing: {names}. Download them into the same folder.",
        "zh": f"共 {len(needed)} 个分卷，缺少 {len(missing)} 个：{names}。请将其下载到同一文件夹。",
    }
    return IncompleteModel(printable(model.name), problem)


def several_models(model: Path, rivals: Sequence[str]) -> UnsupportedModel | None:
    """Return the problem of a folder in which each of several sets of files is a whole model."""
    if not rivals:
        return None
    names = printable(", ".join(rivals[:_MAX_NAMES_SHOWN]) + (" …" if len(rivals) > _MAX_NAMES_SHOWN else ""))
    problem = {
        "en": f"there are several models in it: {names}. Move all but one into folders of their own, each with "
        "config.json and the tokenizer's files.",
        "zh": f"其中有多个模型：{names}。请只保留一个，将其余的分别移到单独的文件夹，"
        "并各自配上 config.json 和词符化器文件。",
    }
    return UnsupportedModel(printable(model.name), problem)


def missing_config(folder: Path, files: Container[Path]) -> IncompleteModel | None:
    """Return the problem of a folder of weights without config.json."""
    if folder / "config.json" in files:
        return None
    problem = {
        "en": "config.json is missing. Download it and the tokenizer's files from the repository of the weights.",
        "zh": "缺少 config.json。请从权重所在的仓库下载它以及词符化器文件。",
    }
    return IncompleteModel(printable(folder.name), problem)


def is_pickle(path: str) -> bool:
    """Return whether loaders unpickle a file of this name."""
    return path.lower().endswith(PICKLES)
