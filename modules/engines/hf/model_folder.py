"""Hand transformers a folder in which it finds the weights, whatever their names: links, and an index where needed.

The folder of the model itself is never written to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from modules.core.errors import ModelProblem
from modules.core.events import Json
from modules.engines.hf.offload_folder import delete_at_end
from modules.formats.checkpoint import DESCRIPTION_FILES, indexed_files, read_description
from modules.formats.safetensors_header import read_tensor_names
from modules.formats.weight_files import (
    ADAPTER_CONFIG,
    FORMATS,
    choose_weights,
    files_below,
    is_found_by_transformers,
    select_weights,
)

_INDEXES = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json"}
_WHOLE = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}


def in_folder(calls: Mapping[str, Json], folder: Path) -> dict[str, Json]:
    """Return the calls of `hf.arguments` with `folder` for the path of the model."""
    return {name: {**args, "pretrained_model_name_or_path": str(folder)} for name, args in calls.items()}


def folder_for_transformers(model: Path) -> Path:
    """Return `model`, or a temporary folder of links if transformers would not read exactly its weights there.

    The weights are those that the catalog has chosen. An adapter in the folder is left out: transformers would apply it
    to weights that it has been merged into already.
    """
    files = {path: path.stat() for path in sorted(model.iterdir()) if path.is_file()}
    index_paths = [model / name for name in DESCRIPTION_FILES if name.endswith(".index.json") and model / name in files]
    indexes = {path.name: _description(path) for path in index_paths}

    def indexed(suffix: str) -> set[Path]:
        return {model / part for part in indexed_files(indexes, suffix)}

    below = files_below(model, [path for suffix in FORMATS for path in indexed(suffix)])
    weights = select_weights({**files, **below})
    suffix = next((path.suffix.lower() for path in weights), "")
    choice = choose_weights(weights, indexed(suffix), read_tensor_names)
    present = sorted(choice.needed & weights.keys())
    if not present or is_found_by_transformers(model, files, choice, indexed):
        return model
    left_out = {*weights, *index_paths, *(path for path in files if _belongs_to_adapter(path))}
    return _linked(model, present, [path for path in model.iterdir() if path not in left_out])


def _description(path: Path) -> Json:
    try:
        return read_description(path)
    except (ModelProblem, OSError):  # transformers reports it better
        return {}


def _belongs_to_adapter(path: Path) -> bool:
    return path.name == ADAPTER_CONFIG or path.name.startswith("adapter_model")


def _linked(model: Path, weights: Collection[Path], others: Iterable[Path]) -> Path:
    # Called like the model: transformers names the modules of a model's own code after its folder.
    folder = Path(tempfile.mkdtemp(prefix="webui-model-")) / model.name
    delete_at_end(folder.parent)
    folder.mkdir()
    for path in others:
        _link(path, folder / path.name)
    suffix = ".safetensors" if all(path.suffix.lower() == ".safetensors" for path in weights) else ".bin"
    if len(weights) == 1:
        _link(next(iter(weights)), folder / _WHOLE[suffix])
        return folder
    names = {path: f"part-{number:05}{suffix}" for number, path in enumerate(weights, 1)}
    for path, name in names.items():
        _link(path, folder / name)
    # Of pickles transformers reads the names of the files alone.
    tensors = {path: read_tensor_names(path) if suffix == ".safetensors" else [path.name] for path in weights}
    weight_map = {tensor: names[path] for path in weights for tensor in sorted(tensors[path])}
    (folder / _INDEXES[suffix]).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return folder


def _link(path: Path, link: Path) -> None:
    """Link to a file or folder by a symbolic link, or where the system forbids those, by a hard link or a copy."""
    try:
        link.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    except OSError:
        if path.is_dir():
            shutil.copytree(path, link)
        else:
            os.link(path, link)
