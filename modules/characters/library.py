"""The characters of a folder: list, read, save, delete, import and export."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.characters import png
from modules.characters.card import parse_object, warnings_of
from modules.characters.character import Character
from modules.characters.character_file import is_character, read_character, write_json, write_yaml
from modules.characters.errors import (
    CardProblem,
    CardRefused,
    CharacterChanged,
    CharacterNotFound,
    InvalidCharacter,
)
from modules.characters.export import export
from modules.characters.files import PICTURES, FileFolder
from modules.config.yaml_file import YamlFile
from modules.conversations.exporters.export import ExportedFile
from modules.conversations.importers.values import as_line
from modules.core.errors import SettingsError, Words
from modules.core.events import Json
from modules.system.atomic_write import replace_file

MAX_FILE_BYTES = 20_000_000
MAX_YAML_BYTES = 4_000_000
_LINE_CHARACTERS = 200
_OTHER_PICTURES = (b"\xff\xd8\xff", b"RIFF", b"GIF8")
_SUFFIXES = (".yml", ".yaml", ".json")  # in the order in which the original looks for them


@dataclass(frozen=True)
class CharacterSummary:
    """A character in a list. `line` is the beginning of what describes it; `picture` differs for another picture,
    "" for none; `has_png` says whether it is a PNG file.

    `problem` says why the file cannot be read, as the end of a sentence. `details` are texts that a search looks in.
    """

    id: str
    name: str
    line: str = ""
    picture: str = ""
    has_png: bool = False
    problem: Words | None = None
    details: str = ""


@dataclass(frozen=True)
class Imported:
    """The id of a new character, and what its user should know, as sentences."""

    id: str
    warnings: tuple[Words, ...] = ()


class CharacterLibrary:
    """The characters in `folder`, which need not exist. All methods may be called from any thread.

    Methods with an id raise CharacterNotFound; those that read a file, InvalidCharacter; those that write one,
    CharacterNotSaved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FileFolder(folder, _SUFFIXES)
        self._writing = threading.RLock()
        self._summaries: dict[str, tuple[str, CharacterSummary]] = {}

    def list(self) -> list[CharacterSummary]:
        """Return all characters, those with a damaged file too, in the order of their names."""
        found = []
        for id in self._files.stems():
            path = self._files.find(id)
            if path is not None:
                found.append(self._summary(id, path))
        return sorted(found, key=lambda one: (one.name.casefold(), one.id))

    def _summary(self, id: str, path: Path) -> CharacterSummary:
        version = _version(path)
        known = self._summaries.get(id)
        if known is None or known[0] != version:
            known = self._summaries[id] = (version, self._summarized(id))
        picture = self.picture(id)
        if picture is None:
            return known[1]
        return dataclasses.replace(known[1], picture=_version(picture), has_png=picture.suffix == ".png")

    def _summarized(self, id: str) -> CharacterSummary:
        try:
            character = self.read(id)
        except InvalidCharacter as error:
            return CharacterSummary(id, id, problem=error.problem)
        except CharacterNotFound:  # deleted at this moment
            return CharacterSummary(id, id)
        described = character.creator_notes or character.context or "".join(character.greetings[:1])
        details = " ".join([character.name, id, character.context[:4000], character.creator_notes[:1000]])
        return CharacterSummary(id, character.name, as_line(described, _LINE_CHARACTERS), details=details)

    def read(self, id: str) -> Character:
        path = self._existing(id)
        try:
            return read_character(id, _content(path))
        except CardProblem as problem:
            raise InvalidCharacter(path.name, problem.words) from problem

    def version(self, id: str) -> str:
        """Return a text that differs whenever the file of the character has changed."""
        return _version(self._existing(id))

    def save(self, character: Character, version: str | None = None) -> Character:
        """Save a character under its id; one whose id is "" gets one. Other keys of its file are kept.

        Raises CharacterChanged if `version` is given and is not that of the file.
        """
        with self._writing, self._files.saving():
            if not character.id:
                character = dataclasses.replace(character, id=self._files.unused_stem(character.name))
                path = self.folder / f"{character.id}.yaml"
            else:
                path = self._existing(character.id)
                if version is not None and version != _version(path):
                    raise CharacterChanged(character.name)
            self._write(path, character)
            return self.read(character.id)

    def _write(self, path: Path, character: Character) -> None:
        if path.suffix == ".json":
            try:
                content = dict(_content(path))
            except CardProblem as problem:
                raise InvalidCharacter(path.name, problem.words) from problem
            write_json(content, character)
            replace_file(path, json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "replace"))
            return
        try:
            YamlFile(path).update(lambda content: write_yaml(content, character))
        except SettingsError as error:
            raise InvalidCharacter(path.name, error.problem) from error

    def delete(self, id: str) -> None:
        """Move a character and its picture to the bin. Its conversations stay."""
        with self._writing:
            self._existing(id)
            self._files.discard(id)

    def restore(self, id: str) -> None:
        """Bring back the character of that id that was deleted last. Raises CharacterExists."""
        with self._writing:
            if not self._files.restore(id):
                raise CharacterNotFound(id)

    def empty_bin(self, days: int = 30) -> None:
        """Delete for good what was deleted at least `days` days ago."""
        self._files.empty_bin(days)

    # -- pictures ------------------------------------------------------------------------------------------------------

    def picture(self, id: str) -> Path | None:
        """Return the file of the character's picture, None if it has none."""
        return self._files.find(id, PICTURES)

    def picture_version(self, id: str) -> str:
        """Return a text that differs for another picture, "" if there is none."""
        picture = self.picture(id)
        return _version(picture) if picture else ""

    def has_png(self, id: str) -> bool:
        """Whether the picture of the character is a PNG file, which a card can be exported in."""
        picture = self.picture(id)
        return picture is not None and picture.suffix == ".png"

    def set_picture(self, id: str, data: bytes) -> None:
        """Store a PNG, JPEG or WebP file as the picture of a character. Raises CardRefused."""
        try:
            suffix = _picture_suffix(data)
            if len(data) > MAX_FILE_BYTES:
                raise _too_large()
            if suffix == ".png":
                data = png.without_card(data)
        except CardProblem as problem:
            raise CardRefused(id, problem.words) from problem
        with self._writing, self._files.saving():
            self._existing(id)
            replace_file(self.folder / f"{id}{suffix}", data)
            for other in PICTURES:
                if other != suffix:
                    (self.folder / f"{id}{other}").unlink(missing_ok=True)

    # -- exchange ------------------------------------------------------------------------------------------------------

    def import_file(self, name: str, data: bytes) -> Imported:
        """Add the character of a file: a card in PNG or JSON, or YAML or JSON of the original. Raises CardRefused."""
        try:
            if len(data) > MAX_FILE_BYTES:
                raise _too_large()
            if data.startswith(png.SIGNATURE):
                return self._add(png.read_card(data), Path(name).stem, png.without_card(data))
            if data[:4] == b"PK\x03\x04":
                raise CardProblem(
                    "archives such as .charx are not supported; export the character as PNG or JSON",
                    "不支持 .charx 等压缩包，请把角色导出为 PNG 或 JSON",
                )
            if data.startswith(_OTHER_PICTURES):
                raise CardProblem(
                    "only PNG pictures keep character cards; the place it comes from may offer one",
                    "只有 PNG 图片能保存角色卡，请到来源处下载 PNG 文件",
                )
            if Path(name).suffix.lower() in (".yaml", ".yml"):
                return self._add_yaml(Path(name).stem, data)
            return self._add(parse_object(data.removeprefix(b"\xef\xbb\xbf")), Path(name).stem)
        except CardProblem as problem:
            raise CardRefused(as_line(name) or "?", problem.words) from problem

    def _add(self, content: Mapping[str, Json], stem: str, picture: bytes | None = None) -> Imported:
        if not is_character(content):
            raise CardProblem("it has none of the fields of a character", "其中没有角色的字段")
        character = read_character("", content)
        named = dataclasses.replace(character, id="", name=character.name or stem or "Character")
        with self._writing:
            saved = self.save(named)
            if picture is not None:
                self.set_picture(saved.id, picture)
        return Imported(saved.id, tuple(warnings_of(content)))

    def _add_yaml(self, stem: str, data: bytes) -> Imported:
        """Keep the file as it is, with its comments."""
        if len(data) > MAX_YAML_BYTES or b"<<" in data:
            raise CardProblem("it is too large, or uses merge keys (<<)", "文件过大，或使用了合并键（<<）")
        with self._writing, self._files.saving():
            descriptor, temporary = tempfile.mkstemp(prefix=".import.", suffix=".yaml", dir=self.folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                content = _content(Path(temporary))
                if not is_character(content):
                    raise CardProblem("it has none of the fields of a character", "其中没有角色的字段")
                character = read_character(stem, content)
                id = self._files.unused_stem(stem or character.name)
                os.rename(temporary, self.folder / f"{id}.yaml")
            finally:
                Path(temporary).unlink(missing_ok=True)
        return Imported(id)

    def export(self, id: str, format: str, picture: bytes | None = None) -> ExportedFile:
        """Return the character as a file in `format`: "png", "json" or "yaml". Raises CardNotExported.

        `picture` is a PNG file for the card of a character whose own picture is none, or who has none.
        """
        return export(self.read(id), format, self.picture(id) if picture is None else picture)

    def deleted(self) -> dict[str, str]:
        """Return the characters in the bin by id, with the day of deletion as YYYYMMDD; the latest ones first."""
        return self._files.deleted()

    def _existing(self, id: str) -> Path:
        path = self._files.find(id)
        if path is None:
            raise CharacterNotFound(id)
        return path


def _content(path: Path) -> Mapping[str, Json]:
    """Return the content of a file by key. Raises CardProblem."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise CardProblem(
                f"it has more than {MAX_YAML_BYTES // 1_000_000} MB", f"文件超过 {MAX_YAML_BYTES // 1_000_000} MB"
            )
        if path.suffix == ".json":
            return parse_object(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        return YamlFile(path).read()
    except SettingsError as error:
        raise CardProblem(error.problem["en"], error.problem["zh"]) from error
    except OSError as error:
        raise CardProblem(error.strerror or str(error), error.strerror or str(error)) from error


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # deleted at this moment
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _picture_suffix(data: bytes) -> str:
    """Return the suffix of a picture's file. Raises CardProblem for what is none."""
    if data.startswith(png.SIGNATURE):
        return ".png"
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    raise CardProblem("it is not a PNG, JPEG or WebP picture", "它不是 PNG、JPEG 或 WebP 图片")


def _too_large() -> CardProblem:
    return CardProblem(
        f"it has more than {MAX_FILE_BYTES // 1_000_000} MB", f"文件超过 {MAX_FILE_BYTES // 1_000_000} MB"
    )
