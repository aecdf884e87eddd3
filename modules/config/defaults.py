"""The defaults that settings.yaml sets: each with its value and source, and saving and undoing changes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.config.settings import ALIASES, OPTIONS, SettingsStore, parse_known
from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import NoSaveToUndo, SettingsError
from modules.loaders.generation_settings import as_text
from modules.options.option import Option, Value, parse_all


@dataclass(frozen=True)
class Default:
    """A setting: `value` applies, from `source`: "default", "preset" or "file". Without the file, `base` would."""

    option: Option
    value: Value
    base: Value
    source: str


@dataclass(frozen=True)
class SavedDefaults:
    """The result of a save: the keys written and removed. `backup` is the path of the old file if it was invalid."""

    written: Mapping[str, Value]
    removed: tuple[str, ...]
    backup: Path | None = None


class Defaults:
    """The settings of `store` as a table, and the last change of it, which can be undone."""

    def __init__(self, store: SettingsStore) -> None:
        self._store = store
        self._file = YamlFile(store.path)
        self._last_save: tuple[bytes | None, bytes | None] | None = None  # the file before and after it

    @property
    def path(self) -> Path:
        return self._store.path

    @property
    def can_undo(self) -> bool:
        return self._last_save is not None

    def table(self) -> dict[str, Default]:
        """Return all settings by key. Raises SettingsError if the file is invalid."""
        in_file = parse_known(str(self.path), self._file.read())
        bases = self._bases(str(in_file.get("preset", "")))
        return {key: _default(option, in_file.get(key), bases[key]) for key, option in OPTIONS.items()}

    def _bases(self, preset: str) -> dict[str, Value]:
        """Return what applies without the file: the values of the preset, and else the options' defaults."""
        return {key: option.default for key, option in OPTIONS.items()} | dict(self._store.preset_values(preset))

    def save(self, values: Mapping[str, object]) -> SavedDefaults:
        """Write the values that differ from what applies without the file, and remove the others from the file.

        Settings that are not in `values`, unknown keys and comments stay. Raises OptionError or UnknownOption, and
        SettingsError if the file cannot be written; nothing has changed then.
        """
        parsed = parse_all(OPTIONS, {key: as_text(key, value) for key, value in values.items()})
        bases = self._bases(str(parsed.get("preset", self._store.current.preset)))
        written = {key: value for key, value in parsed.items() if value != bases[key]}
        replaced = {alias for alias, key in ALIASES.items() if key in parsed}
        before, present = self._file.content(), self._keys_in_file()
        removed = tuple(key for key in parsed if key not in written and key in present)
        if not written and not removed:
            return SavedDefaults({}, ())
        new = {key: to_yaml(value) for key, value in written.items()}
        backup = self._file.update(lambda content: content.update(new), {*parsed} - {*written} | replaced)
        self._last_save = (before, self._file.content())
        self._store.reload()
        return SavedDefaults(written, removed, backup)

    def _keys_in_file(self) -> set[str]:
        try:
            return {ALIASES.get(key, key) for key in self._file.read()}
        except SettingsError:  # the invalid file will be kept under another name
            return set()

    def undo(self) -> None:
        """Put the file back as it was before the last save. Raises NoSaveToUndo, or SettingsError."""
        if self._last_save is None:
            raise NoSaveToUndo()
        before, after = self._last_save
        self._file.put_back(before, unless_changed_from=after)
        self._last_save = None
        self._store.reload()


def _default(option: Option, in_file: Value | None, base: Value) -> Default:
    if in_file is not None:
        return Default(option, in_file, base, "file")
    return Default(option, base, base, "default" if base == option.default else "preset")
