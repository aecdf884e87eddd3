"""Presets: named sets of sampling parameters, one YAML file each, compatible with the original web UI.

A preset contains parameters of the samplers only, no lengths, seeds, stopping strings or bans. Parameters that are not
in the file are neutral, whatever the defaults of the form are, as in the original.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.config.named_files import NamedFiles
from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import OptionError, PresetNotFound, SettingsError, both
from modules.loaders.generation_settings import as_text
from modules.options.generation import OFF, PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Value, parse_all

_SAMPLING = {
    key for key, option in PARAMETERS.items() if option.group in ("common", "truncation", "temperature", "repetition")
}
_KEYS = _SAMPLING - SUPPORTED_BY_ALL - {"seed"} | {"guidance_scale"}

NEUTRAL: Mapping[str, Value] = {key: OFF.get(key, option.default) for key, option in PARAMETERS.items() if key in _KEYS}
"""The parameters of presets, with the values that turn them off."""

MAX_IMPORTED_BYTES = 64_000
_TOO_LARGE = {
    "en": f"the file is larger than {MAX_IMPORTED_BYTES // 1000} KB, so it is not a preset",
    "zh": f"文件超过 {MAX_IMPORTED_BYTES // 1000} KB，不是预设",
}


@dataclass(frozen=True)
class Preset:
    """`values` has every parameter of `NEUTRAL`. `ignored_keys` are keys of the file that are not supported."""

    values: Mapping[str, Value]
    ignored_keys: tuple[str, ...] = ()


class Presets(NamedFiles):
    """The presets in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ".yaml", PresetNotFound, "preset")

    def read(self, name: str) -> Preset:
        """Return a preset. Raises PresetNotFound, or SettingsError if the file is invalid."""
        path = self.existing(name)
        return _preset(str(path), YamlFile(path).read())

    def save(self, name: str, values: Mapping[str, Value]) -> Path | None:
        """Save the values that are not neutral. Parameters that presets do not contain are ignored.

        Other keys in the file are kept; `restore(name, overwritten=True)` brings back what it was before. Return the
        backup path if the old file was invalid, else None. Raises OptionError for an invalid name or value.
        """
        path = self.path_for(name)
        parsed = parse_all(PARAMETERS, {key: as_text(key, value) for key, value in values.items() if key in NEUTRAL})

        def edit(content: Any) -> None:
            for key, neutral in NEUTRAL.items():
                if parsed.get(key, neutral) == neutral:
                    content.pop(key, None)
                else:
                    content[key] = to_yaml(parsed[key])

        self.keep(name)
        return YamlFile(path).update(edit)

    def import_file(self, file_name: str, content: bytes) -> str:
        """Add a preset file, such as one of the original web UI, with all of its keys, and return the preset's name.

        It never replaces another preset. Raises SettingsError for an invalid file, or OptionError for its name.
        """
        stem, suffix = os.path.splitext(file_name)
        name = self.free_name(stem if suffix.lower() in (".yaml", ".yml") else file_name)
        if len(content) > MAX_IMPORTED_BYTES:
            raise SettingsError(file_name, _TOO_LARGE)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SettingsError(file_name, both(str(error))) from error
        _preset(file_name, YamlFile(Path(file_name)).parse(text))
        self.write(name, text.encode())
        return name

    def export(self, name: str) -> str:
        """Return the text of a preset's file. Raises PresetNotFound, or SettingsError if it cannot be read."""
        path = self.existing(name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(path), both(str(error))) from error


def _preset(file: str, content: Mapping[str, Any]) -> Preset:
    """Return the preset with the `content` of `file`. Raises SettingsError for an invalid value."""
    supported = {key: as_text(key, value) for key, value in content.items() if key in NEUTRAL}
    try:
        values = {**NEUTRAL, **parse_all(PARAMETERS, supported)}
    except OptionError as error:
        raise SettingsError(file, {"en": error.say("en"), "zh": error.say("zh")}) from error
    return Preset(values, tuple(key for key in content if key not in NEUTRAL))
