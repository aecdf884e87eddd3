"""A model's folder that differs from another in a few files, without a copy of its weights."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


def linked_folder(source: Path, folder: Path, without: Collection[str] = (), **config: Any) -> Path:
    """Make `folder` with links to the files of `source`, but for those named in `without`, and return it.

    With `config` given, its config.json is a file of its own: that of `source` with these entries changed.
    """
    folder.mkdir()
    for file in source.iterdir():
        if file.name not in without:
            (folder / file.name).symlink_to(file)
    if config:
        original = json.loads((source / "config.json").read_text())
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(original | config))
    return folder
