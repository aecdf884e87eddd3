"""Which Python files of each model its owner has agreed to: `.trusted.yaml` in the folder of models.

The first load of a model with trust_remote_code agrees to what lies there, for only the command line can allow that.
From then on a file that is new or another is asked about again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.config.yaml_file import YamlFile, plain
from modules.core.errors import CodeChanged


class TrustedCode:
    """`folder` is that of the models. Code is told by file name and SHA-256, as `own_code.code_of` does."""

    def __init__(self, folder: Path) -> None:
        self._file = YamlFile(folder / ".trusted.yaml")

    def check(self, model: str, code: Mapping[str, str]) -> None:
        """CodeChanged if `code` is not what was agreed to. Of a model never seen it is agreed to now. SettingsError."""
        listed = self._file.read()
        if model not in listed:
            self.agree(model, code)
            return
        compare(model, listed[model], code)

    def agree(self, model: str, code: Mapping[str, str]) -> None:
        """From now on `code` may run, and nothing else. SettingsError."""

        def edit(content: Any) -> None:
            content[plain(model)] = {plain(name): plain(sha) for name, sha in code.items()}

        self._file.change(edit)


def compare(model: str, agreed: object, code: Mapping[str, str]) -> None:
    """CodeChanged if `code` has more than was `agreed`, which comes from a file or a browser and may be anything."""
    known = agreed if isinstance(agreed, dict) else {}
    changes = {name: "changed" if name in known else "added" for name, sha in code.items() if known.get(name) != sha}
    if changes:
        raise CodeChanged(model, changes, dict(code))
