"""Fingerprints by which a later evaluation is recognized as one of the same model, options, LoRAs and text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.core.events import Json
from modules.runtime.load_plan import LoraAdapter

EDGE_BYTES = 1 << 20
MAX_FILES = 4096


def hash_files(path: Path) -> str:
    """Return a fingerprint of a model's or LoRA's file or folder.

    It covers name and size of every file, and its first and last MiB: hashing all of a large model would take longer
    than evaluating it. Raises OSError.
    """
    digest = hashlib.sha256()
    for name, file in _files(path):
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE_BYTES))
            stream.seek(max(size - EDGE_BYTES, 0))
            digest.update(stream.read(EDGE_BYTES))
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files with the names by which they count: a single file may be renamed, those of a folder may not."""
    if not path.is_dir():
        yield "", path
        return
    for file in sorted(path.iterdir())[:MAX_FILES]:
        if file.is_file() and not file.name.startswith("."):
            yield file.name, file


def hash_adapters(adapters: Sequence[LoraAdapter]) -> str:
    """Return a fingerprint of LoRAs and their weights; "" without any. Raises OSError."""
    if not adapters:
        return ""
    return hash_json([[hash_files(one.path) if one.path else one.name, one.weight] for one in adapters])


def hash_json(value: Json) -> str:
    """Return the SHA-256 of a JSON value, in which the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
