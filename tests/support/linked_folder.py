"""A copy of a model folder with a few different files, which links to the original weights."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


def linked_folder(source: Path, folder: Path, without: Collection[str] = (), **config: Any) -> Path:
    """Create `folder` with links to the files of `source`, except those named in `without`, and return it.

    With `config`, config.json is not a link but a copy with these entries changed.
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
