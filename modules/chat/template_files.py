"""Instruction templates in files: `.jinja` and `.jinja2`, or the original's `.yaml` and `.yml`.

A YAML file has the template under `instruction_template`, or else the parts of a turn, as older versions of the
original wrote them. New templates are saved as `.jinja`, byte for byte.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

from modules.chat.errors import InvalidTemplateFile, TemplateNotFound
from modules.chat.template_conversion import NotATurnTemplate, to_jinja
from modules.config.named_files import NamedFiles
from modules.config.yaml_file import YamlFile
from modules.core.errors import NameTaken, OptionError, SettingsError, Words, both
from modules.options.option import nearest

MAX_BYTES = 1_000_000
"""Of a file. The largest templates that are published have a tenth of it."""

_JINJA, _YAML = (".jinja", ".jinja2"), (".yaml", ".yml")
_KEY, _OLD_KEY = "instruction_template", "turn_template"
_NO_TEMPLATE: Words = {
    "en": f"it has neither {_KEY} nor {_OLD_KEY}; a Jinja template needs the extension .jinja",
    "zh": f"其中没有 {_KEY}，也没有 {_OLD_KEY}；Jinja 模板的扩展名应为 .jinja",
}
_EMPTY: Words = {"en": "it is empty", "zh": "内容为空"}
_TOO_LARGE: Words = {"en": f"it has more than {MAX_BYTES:,} bytes", "zh": f"超过 {MAX_BYTES:,} 字节"}
_NOT_UTF8: Words = {"en": "it is not UTF-8 text", "zh": "不是 UTF-8 文本"}


@dataclass(frozen=True)
class TemplateFile:
    """A template that can be chosen. `problem` says why it cannot be used; None if it can."""

    name: str
    problem: InvalidTemplateFile | None = None


class InstructionTemplates:
    """The templates in `folder`, which need not exist. A template's name is that of its file without the extension.

    Thread-safe. Of files with the same name and different extensions, `.jinja` comes first. Methods raise SettingsError
    if the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kinds = [NamedFiles(folder, suffix, TemplateNotFound, "name") for suffix in (*_JINJA, *_YAML)]
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int, int], str | InvalidTemplateFile]] = {}

    def names(self) -> list[str]:
        """Return the names of all templates, also of those that cannot be used."""
        found = {name for kind in self._kinds for name in kind.names()}
        return sorted(found, key=lambda name: (name.casefold(), name))

    def files(self) -> list[TemplateFile]:
        """Return all templates, with what is wrong with those that cannot be used."""
        return [TemplateFile(name, self._problem(name)) for name in self.names()]

    def read(self, name: str) -> str:
        """Return the source of a template. Raises TemplateNotFound or InvalidTemplateFile."""
        path = next((kind.existing(name) for kind in self._kinds if name in kind.names()), None)
        if path is None:
            raise TemplateNotFound(name[:80], nearest(name, self.names()))
        source = self._content(path)
        if isinstance(source, InvalidTemplateFile):
            raise source
        return source

    def save(self, name: str, source: str, replace: bool = False) -> None:
        """Save a template; with `replace` there may be one of that name, which is moved to the bin.

        Raises OptionError for an invalid name or source, or NameTaken.
        """
        content = _checked(source)
        with self._lock:
            self._kinds[0].path_for(name)
            if not replace and name in self.names():
                raise NameTaken(name)
            self._kinds[0].write(name, content)
            for kind in self._kinds[1:]:
                if name in kind.names():
                    kind.delete(name)

    def delete(self, name: str) -> None:
        """Move a template to the bin; `restore` undoes that. Raises TemplateNotFound."""
        with self._lock:
            kinds = [kind for kind in self._kinds if name in kind.names()]
            if not kinds:
                raise TemplateNotFound(name[:80], nearest(name, self.names()))
            for kind in kinds:
                kind.delete(name)

    def restore(self, name: str) -> None:
        """Bring back the template of that name that was deleted last. Raises TemplateNotFound or NameTaken."""
        with self._lock:
            if name in self.names():
                raise NameTaken(name)
            for kind in self._kinds:
                with contextlib.suppress(TemplateNotFound):
                    kind.restore(name)
                    return
            raise TemplateNotFound(name[:80])

    def _problem(self, name: str) -> InvalidTemplateFile | None:
        try:
            self.read(name)
        except InvalidTemplateFile as problem:
            return problem
        except TemplateNotFound:  # deleted at this moment
            pass
        return None

    def _content(self, path: Path) -> str | InvalidTemplateFile:
        """Return what `_parsed` returns, read again only when the file has changed."""
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._read.get(path)
            if known is None or known[0] != stamp:
                known = self._read[path] = (stamp, _parsed(path))
            return known[1]
        except OSError as error:
            return InvalidTemplateFile(path.name, both(str(error)))


def read_file(path: Path) -> str:
    """Return the template in a file outside the folder. Raises InvalidTemplateFile."""
    try:
        source = _parsed(path)
    except OSError as error:
        source = InvalidTemplateFile(str(path), both(str(error)))
    if isinstance(source, InvalidTemplateFile):
        raise source
    return source


def _parsed(path: Path) -> str | InvalidTemplateFile:
    """Return the template in a file, or what is wrong with the file. Raises OSError."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return InvalidTemplateFile(path.name, _TOO_LARGE)
    try:
        source = _from_yaml(path) if path.suffix in _YAML else content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return InvalidTemplateFile(path.name, _NOT_UTF8)
    except SettingsError as error:
        return InvalidTemplateFile(path.name, error.problem)
    except NotATurnTemplate as error:
        return InvalidTemplateFile(path.name, error.problem)
    return source if source.strip() else InvalidTemplateFile(path.name, _EMPTY)


def _from_yaml(path: Path) -> str:
    """Return the template of a YAML file. Raises SettingsError or NotATurnTemplate."""
    content = YamlFile(path).read()
    source = content.get(_KEY)
    if isinstance(source, str):
        return source
    if source is None and content.get(_OLD_KEY) is not None:
        return to_jinja(content)
    raise NotATurnTemplate(_NO_TEMPLATE)


def _checked(source: str) -> bytes:
    """Return the content of a file with this source. Raises OptionError."""
    content = source.encode("utf-8", "replace")
    if not source.strip() or len(content) > MAX_BYTES:
        expected = {
            "en": f"a template of at most {MAX_BYTES:,} bytes",
            "zh": f"不超过 {MAX_BYTES:,} 字节的模板",
        }
        raise OptionError("instruction_template", source[:80], expected)
    return content
