"""Weight files of a model within a folder: which belong together, which are needed, which are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from modules.core.errors import IncompleteModel
from modules.formats.quantization import PLAIN, Packing, packing_from_names
from modules.formats.safetensors_header import WeightHeader
from modules.system.directory_walk import Files
from modules.system.format_errors import printable

FORMATS = {".safetensors": "safetensors", ".bin": "pytorch", ".pt": "pytorch"}
"""The format of plain weights by file suffix, in order of preference."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that PyTorch pickles, and that may therefore run code."""

_INDEXES = {"model.safetensors.index.json": ".safetensors", "pytorch_model.bin.index.json": ".bin"}
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)", re.IGNORECASE)
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")
_MAX_NAMES_SHOWN = 3


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


def needed_files(weights: Files, indexed: set[Path]) -> set[Path]:
    """Return the weight files a checkpoint needs, by transformers' rules: one whole file, else those of the index."""
    whole = {path for path in weights if path.stem in ("model", "pytorch_model")}
    return whole or indexed or {part for path in weights for part in all_parts(path)}


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
