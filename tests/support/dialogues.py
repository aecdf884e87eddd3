"""Make the owners that prompts of conversations need, in a folder of a test."""

from __future__ import annotations

import json
from pathlib import Path

from modules.characters.library import CharacterLibrary
from modules.characters.personas import Personas
from modules.chat.modes import ConversationPrompts
from modules.chat.participants import ParticipantResolver
from modules.chat.templates import ChatTemplates
from modules.config.presets import Presets
from modules.config.settings import SettingsStore
from modules.core.events import Json


def make_prompts(folder: Path, templates: ChatTemplates, guests: bool = False, **settings: str) -> ConversationPrompts:
    """Return the prompts of conversations with the characters and personas in `folder`, and these settings."""
    store = SettingsStore(folder / "settings.yaml", Presets(folder))
    for key, value in settings.items():
        store.set({"chat_instruct_command": "chat-instruct_command"}.get(key, key), value)
    personas = None if guests else Personas(folder / "users")
    participants = ParticipantResolver(CharacterLibrary(folder / "characters"), personas, store)
    return ConversationPrompts(templates, participants)


def write_character(folder: Path, id: str, **fields: Json) -> None:
    """Write the file of a character into `folder`, with keys of the file's format."""
    (folder / "characters").mkdir(exist_ok=True)
    (folder / "characters" / f"{id}.json").write_text(json.dumps(fields))
