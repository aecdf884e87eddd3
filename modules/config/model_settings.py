"""What is remembered of each model: `config-user.yaml` in the folder of models, one entry a model, by its exact name.

The original kept its entries under `name$`, a regular expression in which special characters never matched; such an
entry is read where there is no exact one, and becomes one when it is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from modules.config.yaml_file import YamlFile, plain
from modules.core.errors import SettingsError

LOADER, LORAS = "loader", "lora"
_UNSET = ("None", "none", "")


class ModelSettings:
    """`is_model` tells whether a model has that name: then an entry `x$` is its own, and not the original's of x."""

    def __init__(self, folder: Path, is_model: Callable[[str], bool]) -> None:
        self._file = YamlFile(folder / "config-user.yaml")
        self._is_model = is_model

    @property
    def path(self) -> Path:
        return self._file.path

    def of(self, name: str) -> Mapping[str, Any]:
        """What was saved for the model of that name, raw: option values by key, "loader", and "lora", the
        weights of LoRAs by name. SettingsError."""
        found = self._file.read().get(self._key(name))
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise self._no_entry(name)
        return _from_original(found)

    def save(self, name: str, loader: str, values: Mapping[str, object], known: Collection[str]) -> Path | None:
        """Remember `values` and the loader. Of the `known` options those left out are forgotten; the rest is kept.

        Returned is where a file that could not be read was kept, if there was one.
        """

        def edit(content: CommentedMap) -> None:
            entry = self._entry(content, name)
            for key in known:
                if key not in values:
                    entry.pop(key, None)
            for key, value in {LOADER: loader, **values}.items():
                entry[key] = plain(value)

        return self._file.change(edit)

    def rename(self, old: str, new: str) -> None:
        """What was saved for the model `old` is that of `new` from now on, in the same place. SettingsError."""

        def edit(content: CommentedMap) -> None:
            entry = self._entry(content, old)
            content.pop(new, None)
            key = next(key for key, each in content.items() if each is entry)
            content.insert(list(content).index(key), plain(new), content.pop(key))

        if self.of(old):
            self._file.change(edit)

    def _key(self, name: str) -> str:
        """The key that the entry of `name` has, or would get."""
        listed, old = self._file.read(), f"{name}$"
        return old if name not in listed and old in listed and not self._is_model(old) else name

    def _entry(self, content: CommentedMap, name: str) -> CommentedMap:
        """The entry of `name` in `content`, made if there is none; the original's becomes ours in its place."""
        old = self._key(name)
        key = self._spelt(content, old)
        if old != name:
            content.insert(list(content).index(key), plain(name), content.pop(key))
            key = name
            if isinstance(content[key], CommentedMap):
                _translate(content[key])
        entry = content.get(key)
        if entry is None:
            entry = content[plain(key)] = CommentedMap()
        if not isinstance(entry, CommentedMap):
            raise self._no_entry(name)
        if sum(each is entry for each in content.values()) > 1:  # written as an alias of another's
            entry = content[key] = CommentedMap(entry)
        made: CommentedMap = entry
        return made

    def _no_entry(self, name: str) -> SettingsError:
        expected = {"en": f"{name!r}: expected lines of `key: value`", "zh": f"{name!r}：应为“键: 值”形式的行"}
        return SettingsError(str(self.path), expected)

    def _spelt(self, content: CommentedMap, name: str) -> Any:
        """The key of `content` that is written as `name`: ruamel makes a number of an unquoted 1.10."""
        written = list(self._file.read())
        return list(content)[written.index(name)] if name in written and len(written) == len(content) else name


def _from_original(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the original wrote for "not set", its sizes of memory as we spell them."""
    found = {key: value for key, value in entry.items() if value is not None and value not in _UNSET}
    sizes = [found.pop(key) for key in sorted(found) if key.startswith("gpu_memory_")]
    if any(sizes) and "gpu_memory" not in found:
        found["gpu_memory"] = " ".join(f"{size}MiB" for size in sizes)
    if isinstance(found.get("cpu_memory"), int):
        size = found.pop("cpu_memory")
        found |= {"cpu_memory": f"{size}MiB"} if size else {}
    return found


def _translate(entry: CommentedMap) -> None:
    """Have the original's `entry` say in our words what `_from_original` reads in it."""
    ours = _from_original(entry)
    for key in [key for key in entry if key not in ours]:
        del entry[key]
    for key, value in ours.items():
        entry[key] = plain(value)
