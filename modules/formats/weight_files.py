"""The weight files of a model among those of a folder: which belong together, which are needed, which are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from modules.core.errors import IncompleteModel
from modules.formats.checkpoint import Tensors
from modules.formats.quantization import PLAIN, Packing, named
from modules.system.bounded_reader import readable
from modules.system.directory_walk import Files

FORMATS = {".safetensors": "safetensors", ".bin": "pytorch", ".pt": "pytorch"}
"""Of plain weights, by the ending of their files, in order of preference."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that PyTorch pickles, and that may therefore run code."""

_INDEXES = {"model.safetensors.index.json": ".safetensors", "pytorch_model.bin.index.json": ".bin"}
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)", re.IGNORECASE)
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")
_SHOWN = 3


def weights(files: Files) -> Files:
    """The weight files among those of one folder, of the preferred kind alone.

    A .pt may hold anything: it counts if the folder's name or its own says that it is a quantised model.
    """
    by_suffix = (
        {path: facts for path, facts in files.items() if path.suffix.lower() == suffix and _may_hold_weights(path)}
        for suffix in FORMATS
    )
    return next((found for found in by_suffix if found), {})


def _may_hold_weights(path: Path) -> bool:
    if path.name.startswith(_NOT_WEIGHTS):
        return False
    return path.suffix.lower() != ".pt" or named(path.parent.name, path.name) != PLAIN


def packed(folder: Path, weights: Iterable[Path], tensors: Iterable[Tensors]) -> Packing:
    """What the tensors show; of files that do not show theirs, what the names of the folder and the files say."""
    names = [path.name for path in weights if path.suffix.lower() != ".safetensors"]
    if names:
        return named(folder.name, *names)
    return next((each.packing for each in tensors if each.packing != PLAIN), PLAIN)


def indexed_suffix(folder: Path, files: Files) -> str:
    """The ending of the weight files that an index in `folder` names; "" if there is no index."""
    return next((suffix for name, suffix in _INDEXES.items() if folder / name in files), "")


def named_as_weights(path: Path) -> bool:
    """Whether a file is called as only weights are: a .bin without config.json beside it may be anything."""
    known = ("pytorch_model" in path.name, "ggml" in path.name.lower(), len(set_of(path)) > 1)
    return path.suffix.lower() != ".bin" or any(known)


def expected(weights: Files, indexed: set[Path]) -> set[Path]:
    """The weight files a checkpoint needs, chosen as transformers does: one whole file, else those of the index."""
    whole = {path for path in weights if path.stem in ("model", "pytorch_model")}
    return whole or indexed or {part for path in weights for part in set_of(path)}


def sets(files: Files, suffixes: Container[str]) -> dict[Path, Files]:
    """The files with one of `suffixes`, those of a split set together under its first part."""
    found: dict[Path, dict[Path, os.stat_result]] = {}
    for path, facts in files.items():
        if path.suffix.lower() in suffixes and _may_hold_weights(path):
            found.setdefault(first_part(path), {})[path] = facts
    return dict(found)


def set_of(path: Path) -> list[Path]:
    """All parts of the split set that `path` belongs to; `path` alone if it is none."""
    return list(parts_of(path))


def parts_of(path: Path) -> Iterator[Path]:
    """The same one by one: a name may claim 99999 parts."""
    if match := _PART.fullmatch(path.name):
        stem, _, total, suffix = match.groups()
        yield from (path.with_name(f"{stem}-{number:05}-of-{total}{suffix}") for number in range(1, int(total) + 1))
    else:
        yield path


def first_part(path: Path) -> Path:
    match = _PART.fullmatch(path.name)
    return path.with_name(f"{match[1]}-00001-of-{match[3]}{match[4]}") if match else path


def set_name(path: Path) -> str:
    """The name without its ending; of a part of a split set, without its number."""
    match = _PART.fullmatch(path.name)
    return match[1] if match else path.stem


def missing(model: Path, expected: Collection[Path], present: Collection[Path]) -> IncompleteModel | None:
    lacking = sorted(readable(path.name) for path in set(expected) - set(present))
    if not lacking:
        return None
    named = ", ".join(lacking[:_SHOWN]) + (" …" if len(lacking) > _SHOWN else "")
    problem = {
        "en": f"{len(lacking)} of {len(expected)} parts are missing: {named}. Download them into the same folder.",
        "zh": f"共 {len(expected)} 个分卷，缺少 {len(lacking)} 个：{named}。请将其下载到同一文件夹。",
    }
    return IncompleteModel(readable(model.name), problem)


def without_config(folder: Path, files: Container[Path]) -> IncompleteModel | None:
    if folder / "config.json" in files:
        return None
    problem = {
        "en": "config.json is missing. Download it, and the tokenizer's files, from where the weights came from.",
        "zh": "缺少 config.json。请从权重的来源处下载它以及词符化器的文件。",
    }
    return IncompleteModel(readable(folder.name), problem)


def is_pickle(path: str) -> bool:
    """By its name: loaders unpickle such a file."""
    return path.lower().endswith(PICKLES)
