"""Find out who takes part in a conversation: its mode, the character, and who the user is to it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

from modules.characters.character import Character
from modules.characters.errors import CharacterNotFound, PersonaNotFound
from modules.characters.library import CharacterLibrary
from modules.characters.macros import fill
from modules.characters.personas import Persona, Personas
from modules.config.settings import Settings, SettingsStore
from modules.conversations.conversation import MODES, Conversation
from modules.core.recent import Recent

INSTRUCT, CHAT_INSTRUCT, CHAT = MODES
DEFAULT_USER, DEFAULT_CHARACTER = "You", "AI"
"""Names of those who have none."""
_REMEMBERED_CHARACTERS = 32


@dataclass(frozen=True)
class Participants:
    """`user` and `char` are the names in the prompt, and `bio` is what the character knows of the user.

    In a conversation without a character, `character` has no texts. `missing` is whether the conversation's character
    no longer exists.
    """

    mode: str
    user: str
    char: str
    bio: str
    character: Character
    missing: bool = False

    def fill(self, text: str) -> str:
        """Return the text with the names in place of its macros."""
        return fill(text, self.user, self.char)


class ParticipantResolver:
    """Knows the participants of every conversation. Any thread may call.

    `personas` is None if all users are guests: the personas, and the name and description in the settings, are those of
    the owner.
    """

    def __init__(self, characters: CharacterLibrary, personas: Personas | None, settings: SettingsStore) -> None:
        self._characters, self._personas, self._settings = characters, personas, settings
        self._known: Recent[str, tuple[str, Character]] = Recent(_REMEMBERED_CHARACTERS)  # with the file's version
        self._lock = threading.Lock()

    @property
    def settings(self) -> Settings:
        """The settings as they are now."""
        return self._settings.current

    def of(self, conversation: Conversation) -> Participants:
        """Return the participants of a conversation.

        A character that no longer exists has only its name, so that the conversation can go on. Raises
        InvalidCharacter for a damaged file.
        """
        settings = self.settings
        character, missing = Character(conversation.character, conversation.character or DEFAULT_CHARACTER), False
        if conversation.character:
            try:
                character = self.character(conversation.character)
            except CharacterNotFound:
                missing = True
        persona = None
        with suppress(PersonaNotFound):
            persona = self.persona(conversation.persona) if conversation.persona else None
        name, bio = ("", "") if self._personas is None else (settings.name1, settings.user_bio)
        user = persona.name if persona else character.user_name or name
        return Participants(
            conversation.mode,
            user.strip() or DEFAULT_USER,
            character.name.strip() or DEFAULT_CHARACTER,
            persona.bio if persona else bio,
            character,
            missing,
        )

    def character(self, id: str) -> Character:
        """Return a character. Raises CharacterNotFound or InvalidCharacter."""
        version = self._characters.version(id)
        with self._lock:
            known = self._known.get(id)
        if known is not None and known[0] == version:
            return known[1]
        character = self._characters.read(id)
        with self._lock:
            self._known[id] = (version, character)
        return character

    def persona(self, id: str) -> Persona:
        """Return a persona. Raises PersonaNotFound or InvalidCharacter."""
        if self._personas is None:
            raise PersonaNotFound(id)
        return self._personas.read(id)
