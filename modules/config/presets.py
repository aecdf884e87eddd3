"""Presets: named sets of sampling parameters, one YAML file each, compatible with the original web UI.

A preset contains parameters of the samplers only, no lengths, seeds, stopping strings or bans. Parameters that are not
in the file are neutral, whatever the defaults of the form are, as in the original.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import OptionError, PresetNotFound, SettingsError, both
from modules.loaders.generation_settings import as_text
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Value, nearest, parse_all

_SAMPLING = {
    key for key, option in PARAMETERS.items() if option.group in ("common", "truncation", "temperature", "repetition")
}
_KEYS = _SAMPLING - SUPPORTED_BY_ALL - {"seed"} | {"guidance_scale"}
_NEUTRAL: Mapping[str, Value] = {"temperature": 1.0, "min_p": 0.0}  # their defaults are not neutral

NEUTRAL: Mapping[str, Value] = {
    key: _NEUTRAL.get(key, option.default) for key, option in PARAMETERS.items() if key in _KEYS
}
"""The parameters of presets, with the values that turn them off."""

_BIN = ".trash"
_SUFFIX = ".yaml"
_MAX_NAME_BYTES = 200  # file systems allow 255 bytes, and the name of the lock file is longer
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]|^[. ]|[. ]$')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # reserved on Windows


@dataclass(frozen=True)
class Preset:
    """`values` has every parameter of `NEUTRAL`. `ignored_keys` are keys of the file that are not supported."""

    values: Mapping[str, Value]
    ignored_keys: tuple[str, ...] = ()


class Presets:
    """The presets in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        stems = (path.stem for path in self.folder.glob(f"*{_SUFFIX}") if path.is_file())
        return sorted((name for name in stems if _is_valid_name(name)), key=lambda name: (name.casefold(), name))

    def read(self, name: str) -> Preset:
        """Return a preset. Raises PresetNotFound, or SettingsError if the file is invalid."""
        path = self._existing(name)
        content = YamlFile(path).read()
        supported = {key: as_text(key, value) for key, value in content.items() if key in NEUTRAL}
        try:
            values = {**NEUTRAL, **parse_all(PARAMETERS, supported)}
        except OptionError as error:
            raise SettingsError(str(path), {"en": error.say("en"), "zh": error.say("zh")}) from error
        return Preset(values, tuple(key for key in content if key not in NEUTRAL))

    def save(self, name: str, values: Mapping[str, Value]) -> Path | None:
        """Save the values that are not neutral. Parameters that presets do not contain are ignored.

        Other keys in the file are kept. Return the backup path if the old file was invalid, else None. Raises
        OptionError for an invalid name or value.
        """
        path = self._path_for(name)
        parsed = parse_all(PARAMETERS, {key: as_text(key, value) for key, value in values.items() if key in NEUTRAL})

        def edit(content: Any) -> None:
            for key, neutral in NEUTRAL.items():
                if parsed.get(key, neutral) == neutral:
                    content.pop(key, None)
                else:
                    content[key] = to_yaml(parsed[key])

        return YamlFile(path).update(edit)

    def delete(self, name: str) -> None:
        """Delete a preset; `restore` undoes that. Raises PresetNotFound, or SettingsError if it cannot be deleted."""
        path = self._existing(name)
        try:
            self._deleted(path).parent.mkdir(exist_ok=True)
            os.replace(path, self._deleted(path))
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def restore(self, name: str) -> None:
        """Bring back the preset of that name that was deleted last, unless there is one of that name again.

        Raises PresetNotFound, or SettingsError if it cannot be written.
        """
        path = self.folder / f"{name}{_SUFFIX}"
        if not _is_valid_name(name) or path.exists() or not self._deleted(path).is_file():
            raise PresetNotFound(name)
        try:
            os.rename(self._deleted(path), path)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def _deleted(self, path: Path) -> Path:
        """Return where the preset at `path` is kept once it is deleted."""
        return self.folder / _BIN / path.name

    def _existing(self, name: str) -> Path:
        path = self.folder / f"{name}{_SUFFIX}"
        if not _is_valid_name(name) or not path.is_file():
            raise PresetNotFound(name, nearest(name, self.names()))
        return path

    def _path_for(self, name: str) -> Path:
        if not _is_valid_name(name):
            expected = {
                "en": r'a name of at most 200 bytes without \ / : * ? " < > |',
                "zh": r'不含 \ / : * ? " < > | 且不超过 200 字节的名称',
            }
            raise OptionError("preset", name[:80], expected)
        return self.folder / f"{name}{_SUFFIX}"


def _is_valid_name(name: str) -> bool:
    """Whether a file can have this name on every operating system."""
    try:
        short = 0 < len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return short and not _FORBIDDEN.search(name) and not _WINDOWS_DEVICES.fullmatch(name)
