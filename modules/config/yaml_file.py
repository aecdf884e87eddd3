"""One YAML file that people edit as well as we: read exactly, and changed without losing what they wrote.

Reading is PyYAML's, which is fast. A change goes through ruamel.yaml, which keeps comments and order; it is made under
a lock that other processes respect, written whole to a temporary name and put in place at once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError as RuamelError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from modules.core.errors import SettingsError, Words, both
from modules.system import file_lock

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WIDTH = 1 << 16  # a long value stays on its line

Edit = Callable[[CommentedMap], None]


class _Loader(_Base):  # type: ignore[misc]
    """Keys are what is written: a model may be called 1.10, or yes. A key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
            seen.add(str(key.value))
        self.flatten_mapping(node)  # `<<`: what is written here itself comes last, and wins
        return {str(key.value): self.construct_object(value, deep=True) for key, value in node.value}


class YamlFile:
    """The file at `path`, which need not exist. Every fault is a SettingsError that says where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[tuple[int, int, int], Mapping[str, Any]] | None = None

    def read(self) -> Mapping[str, Any]:
        """What the file says, by key; nothing if there is none. Read again only once it has changed."""
        try:
            facts = self.path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if self._known is None or self._known[0] != stamp:
                self._known = (stamp, self._parsed(self.path.read_text(encoding="utf-8-sig")))
            return self._known[1]
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    def _parsed(self, text: str) -> Mapping[str, Any]:
        try:
            found = yaml.load(text, _Loader)
        except yaml.MarkedYAMLError as error:
            raise SettingsError(str(self.path), _place(error)) from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date but is none
            raise SettingsError(str(self.path), both(str(error))) from error
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise SettingsError(str(self.path), {"en": "expected lines of `key: value`", "zh": "应为“键: 值”形式的行"})
        return found

    def change(self, edit: Edit) -> Path | None:
        """Have `edit` change the content. A file that is no YAML is kept under another name, which is returned."""
        try:
            with self._locked():
                aside = self._put_aside_if_broken()
                self._write(self._edited(edit))
            return aside
        except (OSError, RuamelError) as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            file_lock.wait_for(lock.fileno())
            yield

    def _put_aside_if_broken(self) -> Path | None:
        try:
            self.read()
            return None
        except SettingsError as error:
            if isinstance(error.__cause__, OSError):  # it could not be read, which says nothing of what it holds
                raise
            names = (self.path.with_name(f"{self.path.name}.broken-{number}") for number in range(1, 1000))
            aside = next(name for name in names if not name.exists())
            self.path.rename(aside)
            return aside

    def _edited(self, edit: Edit) -> CommentedMap:
        text = self.path.read_text(encoding="utf-8-sig") if self.path.exists() else ""
        content = _round_trip().load(text)
        if not isinstance(content, CommentedMap):  # empty, or comments alone
            content = CommentedMap()
            if text.strip():
                content.yaml_set_start_comment(
                    "\n".join(line.strip().lstrip("#").strip() for line in text.splitlines())
                )
        edit(content)
        return content

    def _write(self, content: CommentedMap) -> None:
        place = Path(os.path.realpath(self.path))  # a link stays one
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                _round_trip().dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, place.stat().st_mode & 0o777 if place.exists() else 0o644)
            os.replace(name, place)
        finally:
            Path(name).unlink(missing_ok=True)


def _round_trip() -> YAML:
    round_trip = YAML(typ="rt")
    round_trip.preserve_quotes = True
    round_trip.width = _WIDTH
    return round_trip


def plain(value: Any) -> Any:
    """`value` as it is to be written: a text that would be read as something else, such as on or 1e3, in quotes."""
    if isinstance(value, str) and yaml.safe_load(yaml.safe_dump(value)) == value:
        with contextlib.suppress(yaml.YAMLError, ValueError):
            if yaml.safe_load(value) == value:
                return value
        return DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        return CommentedMap({plain(key): plain(each) for key, each in value.items()})
    return value


def _place(error: yaml.MarkedYAMLError) -> Words:
    mark, problem = error.problem_mark, error.problem or "not YAML"
    if mark is None:
        return both(problem)
    line, column = mark.line + 1, mark.column + 1
    return {
        "en": f"line {line}, column {column}: {problem}",
        "zh": f"第 {line} 行第 {column} 列：{problem}",
    }
