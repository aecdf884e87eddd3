"""A YAML file that users edit too: updating it keeps their comments and order.

PyYAML reads it, because it is fast. ruamel.yaml updates it, because it keeps comments and order. An update holds a lock
across processes, writes a temporary file and renames it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError as RuamelError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from modules.core.errors import SettingsError, Words, both
from modules.system import file_lock
from modules.system.atomic_write import replace_file

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 100
"""Of lists and mappings within each other. Reading them is recursive: a million would end the process."""
_LINE_WIDTH = 1 << 16  # keeps long values on one line
_CHANGED: Words = {
    "en": "not restored, because the file has been changed since then",
    "zh": "文件此后已被修改，未恢复",
}

Edit = Callable[[CommentedMap], None]


class _Loader(_Base):  # type: ignore[misc]
    """Keeps keys as strings, because a model may be named 1.10 or yes. Rejects duplicate keys, and lists as keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(str(key.value))
        self.flatten_mapping(node)  # merge keys (`<<`): own keys come last and take precedence
        return {str(key.value): self.construct_object(value, deep=True) for key, value in node.value}


class YamlFile:
    """The file at `path`, which need not exist. All methods raise SettingsError, with the position of the error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cached: tuple[tuple[int, int, int], Mapping[str, Any]] | None = None

    def read(self) -> Mapping[str, Any]:
        """Return the content by key; empty if there is no file. The content is cached until the file changes."""
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._cached is None or self._cached[0] != stamp:
                self._cached = (stamp, self.parse(self.path.read_text(encoding="utf-8-sig")))
            return self._cached[1]
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    def parse(self, text: str) -> Mapping[str, Any]:
        """Return what `read` would if the file contained `text`."""
        try:
            self._check_depth(text)
            content = yaml.load(text, _Loader)
        except yaml.MarkedYAMLError as error:
            raise SettingsError(str(self.path), _position(error)) from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: an invalid date
            raise SettingsError(str(self.path), both(str(error))) from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise SettingsError(str(self.path), {"en": "expected lines of `key: value`", "zh": "应为“键: 值”形式的行"})
        return content

    def _check_depth(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, _Base):
            if isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    problem = {"en": f"nested more than {MAX_DEPTH} levels deep", "zh": f"嵌套超过 {MAX_DEPTH} 层"}
                    raise SettingsError(str(self.path), problem)

    def update(self, edit: Edit, remove: Collection[str] = ()) -> Path | None:
        """Apply `edit` to the content, remove the keys `remove`, and write it.

        Comments stay, also those of removed keys. An invalid file is renamed first; return its backup path.
        """
        try:
            with self._locked():
                backup = self._back_up_if_invalid()
                self._write(_without_keys(_dumped(self._edited(edit)), remove))
            return backup
        except (OSError, RuamelError) as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    def content(self) -> bytes | None:
        """Return the file as it is, None if there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    def put_back(self, content: bytes | None, unless_changed_from: bytes | None) -> None:
        """Replace the file by an earlier `content`, None for no file, unless it has been changed since."""
        try:
            with self._locked():
                if self.content() != unless_changed_from:
                    raise SettingsError(str(self.path), _CHANGED)
                if content is None:
                    self.path.unlink(missing_ok=True)
                else:
                    self._write(content)
        except OSError as error:
            raise SettingsError(str(self.path), both(str(error))) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(lock_of(self.path), "w") as lock:
            file_lock.acquire(lock.fileno())
            yield

    def _back_up_if_invalid(self) -> Path | None:
        try:
            self.read()
            return None
        except SettingsError as error:
            if isinstance(error.__cause__, OSError):  # unreadable, but not necessarily invalid
                raise
            names = (self.path.with_name(f"{self.path.name}.broken-{number}") for number in range(1, 1000))
            backup = next(name for name in names if not name.exists())
            self.path.rename(backup)
            return backup

    def _edited(self, edit: Edit) -> CommentedMap:
        text = self.path.read_text(encoding="utf-8-sig") if self.path.exists() else ""
        content = _round_trip().load(text)
        if not isinstance(content, CommentedMap):  # empty, or only comments
            content = CommentedMap()
            if text.strip():
                content.yaml_set_start_comment(
                    "\n".join(line.strip().lstrip("#").strip() for line in text.splitlines())
                )
        edit(content)
        return content

    def _write(self, content: bytes) -> None:
        target = Path(os.path.realpath(self.path))  # keeps a symbolic link
        is_new = not target.exists()
        replace_file(target, content)
        if is_new:
            os.chmod(target, 0o644)


def lock_of(path: Path) -> Path:
    """Return the file that is locked while the one at `path` is written."""
    return path.with_name(f".{path.name}.lock")


def _dumped(content: CommentedMap) -> bytes:
    dumped = io.BytesIO()
    _round_trip().dump(content, dumped)
    return dumped.getvalue()


def _without_keys(content: bytes, keys: Collection[str]) -> bytes:
    """Remove keys of the uppermost level with their lines; a comment behind a value becomes a line of its own.

    ruamel would remove the comment lines that follow a key with it, as it takes them for a part of that key.
    """
    text = content.decode()
    before = yaml.load(text, _Loader) or {}
    after = {key: value for key, value in before.items() if key not in keys}
    if after == before:
        return content
    root = yaml.compose(text, yaml.SafeLoader)
    lines = text.splitlines(keepends=True)
    for key, value in reversed(root.value if root is not None else []):
        if key.value in keys:
            end = _last_leaf(value).end_mark
            stop = end.line + (end.column > 0)  # that of a block ends at the beginning of the next line
            comment = lines[end.line][end.column :].strip() if end.column else ""
            lines[key.start_mark.line : stop] = [f"# {key.value}: {comment[1:].strip()}\n"] if comment else []
    kept = "".join(lines)
    with contextlib.suppress(yaml.YAMLError):
        if (yaml.load(kept, _Loader) or {}) == after:
            return kept.encode()
    content_map = _round_trip().load(text)  # several keys in one line, or an anchor of another one
    for key in keys:
        content_map.pop(key, None)
    return _dumped(content_map)


def _last_leaf(node: yaml.Node) -> yaml.Node:
    """Return the last scalar in a node: the node itself ends only where the next one begins."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def _round_trip() -> YAML:
    round_trip = YAML(typ="rt")
    round_trip.preserve_quotes = True
    round_trip.width = _LINE_WIDTH
    return round_trip


def to_yaml(value: Any) -> Any:
    """Convert a value for writing: strings that YAML would read as another type, such as on or 1e3, are quoted."""
    if isinstance(value, str) and yaml.safe_load(yaml.safe_dump(value)) == value:
        with contextlib.suppress(yaml.YAMLError, ValueError):
            if yaml.safe_load(value) == value:
                return value
        return DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        return CommentedMap({to_yaml(key): to_yaml(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [to_yaml(item) for item in value]
    return value


def as_block(text: str) -> Any:
    """Convert a text for writing: several lines stand below their key as they are, where YAML can keep them so."""
    if "\n" in text:
        block = LiteralScalarString(text)
        with contextlib.suppress(RuamelError, yaml.YAMLError):
            if yaml.load(dump({"text": block}), _Loader) == {"text": text}:
                return block
    return to_yaml(text)


def dump(content: Mapping[str, Any]) -> str:
    """Return YAML of values that `to_yaml` and `as_block` have converted."""
    written = io.StringIO()
    _round_trip().dump(CommentedMap(content), written)
    return written.getvalue()


def _position(error: yaml.MarkedYAMLError) -> Words:
    mark, problem = error.problem_mark, error.problem or "not YAML"
    if mark is None:
        return both(problem)
    line, column = mark.line + 1, mark.column + 1
    return {
        "en": f"line {line}, column {column}: {problem}",
        "zh": f"第 {line} 行第 {column} 列：{problem}",
    }
