"""The Python files that come with a model and run if they are trusted, each known by its SHA-256.

Standard library alone: the page and the API refuse by it, and the engines say by it what would run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.formats.tokenizer_files import tokenizer_folder


def code_of(path: Path) -> dict[str, str]:
    """By name below their folder, the SHA-256 of every Python file that loading the model at `path` might run.

    That is all there are in a folder of weights; of a GGUF file, those beside its tokenizer.
    """
    folder = path if path.is_dir() else tokenizer_folder(path)
    if folder is None:
        return {}
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(_python_files(folder))}


def _python_files(folder: Path) -> Iterator[Path]:
    """Hidden ones too, and those behind links: transformers would follow them."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [each for each in folders if os.path.realpath(os.path.join(place, each)) not in seen]
        yield from (Path(place, name) for name in files if name.endswith(".py"))


def _sha256(file: Path) -> str:
    """In hexadecimal; of what cannot be read, why not: nothing can run it either."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return str(error.strerror)


def code_elsewhere(folder: Path) -> str:
    """What a JSON file in `folder` names as a class in another repository ("owner/name--module.Class"); else "".

    transformers would run a copy that it once downloaded, which nobody here was shown; so it is not allowed to.
    """
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith("config.json"):
            for name in _own_classes(_json(file)):
                if "--" in name:
                    return name
    return ""


def _own_classes(config: Any) -> Iterator[str]:
    """All that stands in an "auto_map", at any depth: there are configs within configs."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if key == "auto_map":
            yield from _texts(value)
        else:
            yield from _own_classes(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # transformers will say it better
        return {}
