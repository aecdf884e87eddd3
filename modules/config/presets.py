"""Presets: sets of sampling parameters with a name, one YAML file each, as the original has them.

A preset says how tokens are drawn, and nothing of lengths, seeds, stops or bans. What it does not name is neutral,
whatever the form's own defaults are: so the original's files mean here what they mean there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.config.yaml_file import YamlFile, plain
from modules.core.errors import OptionError, PresetNotFound, SettingsError
from modules.loaders.generation_settings import as_text
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Value, nearest, parse_all

_DRAWING = {
    key for key, option in PARAMETERS.items() if option.group in ("common", "truncation", "temperature", "repetition")
}
_KEYS = _DRAWING - SUPPORTED_BY_ALL - {"seed"} | {"guidance_scale"}
_NEUTRAL: Mapping[str, Value] = {"temperature": 1.0, "min_p": 0.0}  # by default the form is set to something else

NEUTRAL: Mapping[str, Value] = {
    key: _NEUTRAL.get(key, option.default) for key, option in PARAMETERS.items() if key in _KEYS
}
"""Every parameter that a preset sets, as it is in one that says nothing."""

_SUFFIX = ".yaml"
_LONGEST = 200  # bytes of UTF-8: file systems take 255, and a lock's name is a little longer
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]|^[. ]|[. ]$')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows no names for files


@dataclass(frozen=True)
class Preset:
    """`values` of every parameter that presets set; `passed_over` are keys in the file that mean nothing here."""

    values: Mapping[str, Value]
    passed_over: tuple[str, ...] = ()


class Presets:
    """Those in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        found = (path.stem for path in self.folder.glob(f"*{_SUFFIX}") if path.is_file())
        return sorted((name for name in found if _is_name(name)), key=lambda name: (name.casefold(), name))

    def read(self, name: str) -> Preset:
        """PresetNotFound, or SettingsError that names what is wrong in the file."""
        path = self._existing(name)
        said = YamlFile(path).read()
        known = {key: as_text(key, value) for key, value in said.items() if key in NEUTRAL}
        try:
            values = {**NEUTRAL, **parse_all(PARAMETERS, known)}
        except OptionError as error:
            raise SettingsError(str(path), {"en": error.say("en"), "zh": error.say("zh")}) from error
        return Preset(values, tuple(key for key in said if key not in NEUTRAL))

    def save(self, name: str, values: Mapping[str, Value]) -> Path | None:
        """Keep what of `values` is not neutral under that name; parameters that presets do not set are passed over.

        What else stands in the file stays. Returned is where a file that could not be read was kept, if there was one.
        OptionError for a name that no file can have, or for a value.
        """
        path = self._place(name)
        parsed = parse_all(PARAMETERS, {key: as_text(key, value) for key, value in values.items() if key in NEUTRAL})

        def edit(content: Any) -> None:
            for key, neutral in NEUTRAL.items():
                if parsed.get(key, neutral) == neutral:
                    content.pop(key, None)
                else:
                    content[key] = plain(parsed[key])

        return YamlFile(path).change(edit)

    def delete(self, name: str) -> None:
        """PresetNotFound, or SettingsError if the file cannot be removed."""
        path = self._existing(name)
        try:
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(str(path), {"en": str(error), "zh": str(error)}) from error

    def _existing(self, name: str) -> Path:
        path = self.folder / f"{name}{_SUFFIX}"
        if not _is_name(name) or not path.is_file():
            raise PresetNotFound(name, nearest(name, self.names()))
        return path

    def _place(self, name: str) -> Path:
        if not _is_name(name):
            wish = {
                "en": r'a name without \ / : * ? " < > | and not too long',
                "zh": r'不含 \ / : * ? " < > | 且不太长的名称',
            }
            raise OptionError("preset", name[:80], wish)
        return self.folder / f"{name}{_SUFFIX}"


def _is_name(name: str) -> bool:
    """Whether a file in the folder itself may be called so, on every system."""
    try:
        short = 0 < len(name.encode()) <= _LONGEST
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return short and not _FORBIDDEN.search(name) and not _DEVICES.fullmatch(name)
