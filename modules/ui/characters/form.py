"""A character as the page's editor shows it, and what the editor sends back."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from modules.characters.card import MAX_JSON_BYTES
from modules.characters.character import Character
from modules.characters.library import CharacterLibrary
from modules.characters.lorebook import MAX_ENTRIES, MAX_ORDER, Lorebook, LoreEntry, with_entries
from modules.core.events import Json
from modules.ui.chat.bodies import Id
from modules.ui.sent_values import Body

MAX_TEXT = MAX_JSON_BYTES
MAX_NAME = 200
MAX_GREETINGS = 1000

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class Entry(Body):
    """An entry of the lorebook. `index` is its place in the file, None for a new one."""

    index: Annotated[int | None, Field(ge=0)] = None
    keys: Annotated[list[Annotated[str, Field(max_length=10_000)]], Field(max_length=2000)]
    content: Text
    constant: bool
    enabled: bool
    order: Annotated[int | float, Field(ge=-MAX_ORDER, le=MAX_ORDER, allow_inf_nan=False)]


class CharacterForm(Body):
    """All that the editor shows of a character. `id` is "" for a new one, `version` None to overwrite any change."""

    id: Id
    version: Annotated[str | None, Field(max_length=100)] = None
    name: Name
    context: Text
    greetings: Annotated[list[Text], Field(max_length=MAX_GREETINGS)]
    examples: Text
    system_prompt: Text
    post_history: Text
    user_name: Name
    lorebook: Annotated[list[Entry], Field(max_length=MAX_ENTRIES)]

    def apply_to(self, character: Character) -> Character:
        """Return the character with the fields of the form."""
        return dataclasses.replace(
            character,
            name=self.name.strip(),
            context=self.context.strip(),
            greetings=tuple(greeting for greeting in self.greetings if greeting.strip()),
            examples=self.examples.strip(),
            system_prompt=self.system_prompt.strip(),
            post_history=self.post_history.strip(),
            user_name=self.user_name.strip(),
            lorebook=self._lorebook(character.lorebook),
        )

    def _lorebook(self, old: Lorebook | None) -> Lorebook | None:
        known = old.entries if old else ()
        entries = []
        for entry in self.lorebook:
            start = known[entry.index] if entry.index is not None and entry.index < len(known) else LoreEntry()
            keys = tuple(key.strip() for key in entry.keys if key.strip())
            same_keys = [key.strip() for key in start.keys] == list(keys)
            entries.append(
                dataclasses.replace(
                    start,
                    keys=start.keys if same_keys else keys,
                    content=entry.content,
                    constant=entry.constant,
                    enabled=entry.enabled,
                    order=entry.order,
                )
            )
        return with_entries(old, entries)


def form_of(library: CharacterLibrary, id: str) -> Json:
    """Return what the editor shows of a character."""
    version, character = library.version(id), library.read(id)
    return {
        "id": id,
        "version": version,
        "name": character.name,
        "context": character.context,
        "greetings": list(character.greetings),
        "examples": character.examples,
        "system_prompt": character.system_prompt,
        "post_history": character.post_history,
        "user_name": character.user_name,
        "creator_notes": character.creator_notes,
        "lorebook": [_entry(number, entry) for number, entry in enumerate(_entries(character.lorebook))],
        "picture": library.picture_version(id),
        "png": library.has_png(id),
    }


def _entries(lorebook: Lorebook | None) -> tuple[LoreEntry, ...]:
    return lorebook.entries if lorebook else ()


def _entry(index: int, entry: LoreEntry) -> Json:
    return {
        "index": index,
        "name": entry.name,
        "keys": list(entry.keys),
        "content": entry.content,
        "constant": entry.constant,
        "enabled": entry.enabled,
        "order": entry.order,
        "regex": entry.use_regex,
        "secondary_keys": list(entry.secondary_keys) if entry.selective else [],
    }
