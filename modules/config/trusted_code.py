"""The Python files of models that the user has agreed to run: `.trusted.yaml` in the folder of models.

The first load of a model with trust_remote_code, which only the command line can allow, agrees to its present files.
After that, new and changed files need consent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import CodeChanged


class TrustedCode:
    """Owner of `.trusted.yaml`. Code is given as SHA-256 by file name, see `formats/remote_code.py`."""

    def __init__(self, folder: Path) -> None:
        self._file = YamlFile(folder / ".trusted.yaml")

    def check(self, model: str, code: Mapping[str, str]) -> None:
        """Raise CodeChanged if `code` has new or changed files; agree to the code of a model seen for the first time.

        Raises SettingsError if the file cannot be read or written.
        """
        agreed = self._file.read()
        if model not in agreed:
            self.agree(model, code)
            return
        require_unchanged(model, agreed[model], code)

    def agree(self, model: str, code: Mapping[str, str]) -> None:
        """Allow exactly `code` to run from now on. Raises SettingsError."""

        def edit(content: Any) -> None:
            content[to_yaml(model)] = {to_yaml(name): to_yaml(sha) for name, sha in code.items()}

        self._file.update(edit)


def require_unchanged(model: str, agreed: object, code: Mapping[str, str]) -> None:
    """Raise CodeChanged if `code` has files that are not in `agreed`, or other ones.

    `agreed` comes from a file or a browser, so it may be of any type.
    """
    hashes = agreed if isinstance(agreed, dict) else {}
    changes = {name: "changed" if name in hashes else "added" for name, sha in code.items() if hashes.get(name) != sha}
    if changes:
        raise CodeChanged(model, changes, dict(code))
