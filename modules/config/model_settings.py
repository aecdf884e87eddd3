"""Settings saved per model: `config-user.yaml` in the folder of models, one entry per model, by its exact name.

The original web UI used `name$` as the key, a regular expression that never matched names with special characters. Such
an entry is read if there is no exact one, and is converted when it is saved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import SettingsError
from modules.core.quotes import in_quotes

LOADER, LORAS = "loader", "lora"
_UNSET = ("None", "none", "")
_OLD_GPU_MEMORY = re.compile(r"gpu_memory_\d+")


class ModelSettings:
    """Owner of `config-user.yaml`.

    `is_model` tells whether there is a model of a name. If there is one called `x$`, the entry `x$` belongs to it and
    not to x in the original's spelling.
    """

    def __init__(self, folder: Path, is_model: Callable[[str], bool]) -> None:
        self._file = YamlFile(folder / "config-user.yaml")
        self._is_model = is_model

    @property
    def path(self) -> Path:
        return self._file.path

    def get(self, name: str) -> Mapping[str, Any]:
        """Return the raw settings of a model: option values by key, "loader", and "lora" with LoRA weights by name.

        Raises SettingsError.
        """
        entry = self._file.read().get(self._key(name))
        if entry is None:
            return {}
        if not isinstance(entry, dict):
            raise self._invalid_entry(name)
        return _from_original(entry)

    def having(self, key: str, value: object) -> list[str]:
        """Return the models with this setting, by the keys of their entries. Raises SettingsError."""
        entries = self._file.read().items()
        return [name for name, entry in entries if isinstance(entry, dict) and entry.get(key) == value]

    def save(self, name: str, loader: str, values: Mapping[str, object], keys: Collection[str]) -> Path | None:
        """Save the loader and `values`; remove the other `keys`, and keep everything else in the entry.

        Return the backup path if the old file was invalid, else None. Raises SettingsError.
        """

        def edit(content: CommentedMap) -> None:
            entry = self._entry(content, name)
            for key in keys:
                if key not in values:
                    entry.pop(key, None)
            for key, value in {LOADER: loader, **values}.items():
                entry[key] = to_yaml(value)

        return self._file.update(edit)

    def set(self, name: str, key: str, value: str) -> Path | None:
        """Change one setting of a model and keep all others; "" removes it, and the entry if nothing else is in it.

        Return the backup path if the old file was invalid, else None. Raises SettingsError.
        """

        def edit(content: CommentedMap) -> None:
            entry = self._entry(content, name)
            if value:
                entry[key] = to_yaml(value)
                return
            entry.pop(key, None)
            if not entry:
                content.pop(self._parsed_key(content, name), None)

        return self._file.update(edit)

    def rename(self, old: str, new: str) -> None:
        """Move the entry of the model `old` to `new`, at the same position in the file. Raises SettingsError."""

        def edit(content: CommentedMap) -> None:
            entry = self._entry(content, old)
            content.pop(new, None)
            key = next(key for key, value in content.items() if value is entry)
            content.insert(list(content).index(key), to_yaml(new), content.pop(key))

        if self.get(old):
            self._file.update(edit)

    def remove(self, name: str) -> Mapping[str, Any]:
        """Remove the entry of a model and return it as it was written; empty if there is none. Raises SettingsError."""
        entry = self._file.read().get(self._key(name))

        def edit(content: CommentedMap) -> None:
            content.pop(self._parsed_key(content, self._key(name)), None)

        if entry is None:
            return {}
        self._file.update(edit)
        return entry if isinstance(entry, dict) else {}

    def put_back(self, name: str, entry: Mapping[str, Any]) -> None:
        """Write an entry that `remove` has returned, unless there is one by now. Raises SettingsError."""

        def edit(content: CommentedMap) -> None:
            content[to_yaml(name)] = CommentedMap({key: to_yaml(value) for key, value in entry.items()})

        if entry and not self._file.read().get(self._key(name)):
            self._file.update(edit)

    def _key(self, name: str) -> str:
        """Return the key of the entry of `name`, whether it exists or not."""
        entries, original = self._file.read(), f"{name}$"
        return original if name not in entries and original in entries and not self._is_model(original) else name

    def _entry(self, content: CommentedMap, name: str) -> CommentedMap:
        """Return the entry of `name`, created if there is none. Converts an entry of the original in its position."""
        written_key = self._key(name)
        key = self._parsed_key(content, written_key)
        if written_key != name:
            content.insert(list(content).index(key), to_yaml(name), content.pop(key))
            key = name
            if isinstance(content[key], CommentedMap):
                _convert_original(content[key])
        entry = content.get(key)
        if entry is None:
            entry = content[to_yaml(key)] = CommentedMap()
        if not isinstance(entry, CommentedMap):
            raise self._invalid_entry(name)
        if sum(value is entry for value in content.values()) > 1:  # an alias of another model's entry
            entry = content[key] = CommentedMap(entry)
        result: CommentedMap = entry
        return result

    def _invalid_entry(self, name: str) -> SettingsError:
        expected = {"en": f"{name!r}: expected lines of `key: value`", "zh": f"{in_quotes(name)}：应为“键: 值”形式的行"}
        return SettingsError(str(self.path), expected)

    def _parsed_key(self, content: CommentedMap, name: str) -> Any:
        """Return the key in `content` that is written as `name`; ruamel parses an unquoted 1.10 as a number."""
        written = list(self._file.read())
        return list(content)[written.index(name)] if name in written and len(written) == len(content) else name


_NEW_NAMES: Mapping[str, tuple[str, ...]] = {
    "ctx_size": ("n_ctx", "max_seq_len"),
    "gpu_layers": ("n_gpu_layers",),
    "batch_size": ("n_batch",),
    "no_kv_offload": ("no_offload_kqv",),
}
"""Names of today's original for options that had ours before."""

_CACHE_TYPES = {"q8_0": "cache_8bit", "q8": "cache_8bit", "q4_0": "cache_4bit", "q4": "cache_4bit"}
_ATTENTION = {"flash_attention_2": "use_flash_attention_2", "eager": "use_eager_attention"}


def _from_original(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the values that mean "not set" in the original, and convert its memory sizes and today's names."""
    converted = {key: value for key, value in entry.items() if value is not None and value not in _UNSET}
    for new, names in _NEW_NAMES.items():
        if new in converted:
            value = converted.pop(new)
            automatic = value == (-1 if new == "gpu_layers" else 0)
            converted |= {} if automatic else {name: value for name in names if name not in converted}
    for new, table in (("cache_type", _CACHE_TYPES), ("attn_implementation", _ATTENTION)):
        if (value := str(converted.get(new))) in table:  # not a list, or whatever else a file may contain
            del converted[new]
            converted.setdefault(table[value], True)
    sizes = [converted.pop(key) for key in sorted(converted) if _OLD_GPU_MEMORY.fullmatch(key)]
    if any(sizes) and "gpu_memory" not in converted:
        converted["gpu_memory"] = " ".join(f"{size}MiB" for size in sizes)
    if isinstance(converted.get("cpu_memory"), int):
        size = converted.pop("cpu_memory")
        converted |= {"cpu_memory": f"{size}MiB"} if size else {}
    return converted


def _convert_original(entry: CommentedMap) -> None:
    """Replace the content of an entry of the original by its converted content."""
    converted = _from_original(entry)
    for key in [key for key in entry if key not in converted]:
        del entry[key]
    for key, value in converted.items():
        entry[key] = to_yaml(value)
