"""Find and hash the Python files that come with a model and run once they are trusted.

Standard library alone: the UI and the API refuse untrusted code by it, and the engines report by it what would run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.formats.tokenizer_files import tokenizer_folder


def hash_python_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every Python file that loading the model at `path` might run, by path in its folder.

    That is every Python file in a folder of weights; of a GGUF file, those beside its tokenizer.
    """
    folder = path if path.is_dir() else tokenizer_folder(path)
    if folder is None:
        return {}
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(_python_files(folder))}


def _python_files(folder: Path) -> Iterator[Path]:
    """Yield hidden files and those behind links too: transformers would follow them."""
    visited: set[str] = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(parent))
        subfolders[:] = [name for name in subfolders if os.path.realpath(os.path.join(parent, name)) not in visited]
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def _sha256(file: Path) -> str:
    """Return the hash in hexadecimal; the error if the file cannot be read: nothing can run it either."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return str(error.strerror)


def class_in_other_repository(folder: Path) -> str:
    """Return a class that a config in `folder` takes from another repository ("owner/name--module.Class"); or "".

    transformers would run the copy that it once downloaded, which the user was never asked about; so it is refused.
    """
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith("config.json"):
            for name in _auto_map_classes(_read_json(file)):
                if "--" in name:
                    return name
    return ""


def _auto_map_classes(config: Any) -> Iterator[str]:
    """Yield the classes in every "auto_map", at any depth: a config may contain others."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if key == "auto_map":
            yield from _strings(value)
        else:
            yield from _auto_map_classes(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(item)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading reports it with transformers' own message
        return {}
