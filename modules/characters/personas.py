"""Personas: who the user is in a conversation. Files of the original: users/<id>.yaml with `name` and `user_bio`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.characters.errors import InvalidCharacter, PersonaNotFound
from modules.characters.files import FileFolder
from modules.config.yaml_file import YamlFile, as_block
from modules.conversations.importers.values import as_text
from modules.core.errors import SettingsError, Words
from modules.core.events import Json


@dataclass(frozen=True)
class Persona:
    """`id` is the stem of the file; `bio` describes the user to the model, and may contain macros."""

    id: str
    name: str
    bio: str = ""


@dataclass(frozen=True)
class ListedPersona:
    """A persona, or the `problem` of its file as the end of a sentence."""

    persona: Persona
    problem: Words | None = None


class Personas:
    """The personas in `folder`, which need not exist. Methods that change a file raise CharacterNotSaved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FileFolder(folder, (".yaml", ".yml"))

    def list(self) -> list[ListedPersona]:
        found = []
        for id in self._files.stems():
            try:
                found.append(ListedPersona(self.read(id)))
            except InvalidCharacter as error:
                found.append(ListedPersona(Persona(id, id), error.problem))
            except PersonaNotFound:  # deleted at this moment
                continue
        return found

    def read(self, id: str) -> Persona:
        """Return a persona. Raises PersonaNotFound or InvalidCharacter."""
        path = self._existing(id)
        try:
            content = YamlFile(path).read()
        except SettingsError as error:
            raise InvalidCharacter(path.name, error.problem) from error
        return Persona(id, _text(content, "name") or id, _text(content, "user_bio"))

    def save(self, persona: Persona) -> Persona:
        """Save a persona under its id; one whose id is "" gets one. Other keys of the file are kept."""

        def edit(content: dict[str, Json]) -> None:
            content["name"], content["user_bio"] = as_block(persona.name), as_block(persona.bio)

        id = persona.id or self._files.unused_stem(persona.name)
        path = self._existing(id) if persona.id else self._files.folder / f"{id}.yaml"
        with self._files.saving():
            try:
                YamlFile(path).update(edit)
            except SettingsError as error:
                raise InvalidCharacter(path.name, error.problem) from error
        return Persona(id, persona.name, persona.bio)

    def delete(self, id: str) -> None:
        """Move a persona to the bin."""
        self._existing(id)
        self._files.discard(id)

    def restore(self, id: str) -> None:
        """Bring back the persona of that id that was deleted last. Raises PersonaNotFound or CharacterExists."""
        if not self._files.restore(id):
            raise PersonaNotFound(id)

    def deleted(self) -> dict[str, str]:
        """Return the personas in the bin by id, with the day of deletion as YYYYMMDD; the latest ones first."""
        return self._files.deleted()

    def empty_bin(self, days: int = 30) -> None:
        """Delete for good what was deleted at least `days` days ago."""
        self._files.empty_bin(days)

    def _existing(self, id: str) -> Path:
        path = self._files.find(id)
        if path is None:
            raise PersonaNotFound(id)
        return path


def _text(content: Mapping[str, Json], key: str) -> str:
    value = content.get(key)
    return as_text(str(value)).strip() if value is not None and not isinstance(value, list | dict) else ""
