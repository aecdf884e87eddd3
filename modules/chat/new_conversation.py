"""Begin conversations, and change who takes part in them: mode, character and persona."""

from __future__ import annotations

import time
from contextlib import suppress

from modules.characters.errors import CharacterNotFound
from modules.chat.errors import ConversationBegun
from modules.chat.participants import CHAT, CHAT_INSTRUCT, INSTRUCT, ParticipantResolver
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import MODES, ROOT, Conversation
from modules.core.errors import OptionError, WebUIError
from modules.runtime.model_manager import ModelManager


class ConversationSetup:
    """Begins conversations for the model that is loaded at that time. Any thread may call."""

    def __init__(self, participants: ParticipantResolver, templates: ChatTemplates, models: ModelManager) -> None:
        self._participants, self._templates, self._models = participants, templates, models

    def new(
        self,
        mode: str | None = None,
        character: str | None = None,
        persona: str | None = None,
        system: str | None = None,
    ) -> Conversation:
        """Return a new conversation, not stored yet. It begins with the character's greetings, as versions.

        What is None is as the settings say; with a character, the mode is one that plays it. Raises CharacterNotFound,
        PersonaNotFound, InvalidCharacter, or OptionError for an unknown mode.
        """
        settings, now = self._participants.settings, time.time()
        if character is None:
            character = self._default_character(mode or settings.mode)
        conversation = Conversation("", created=now, updated=now)
        conversation.system = settings.system_message if system is None else system
        conversation.mode = settings.mode
        self.change(conversation, mode, character, persona)
        return conversation

    def change(self, conversation: Conversation, mode: str | None, character: str | None, persona: str | None) -> None:
        """Change what is not None. Greetings of the old character are replaced by those of the new one.

        Raises what `new` raises, and ConversationBegun for another character after the first message of the user.
        """
        if mode is not None and mode not in MODES:
            raise OptionError("mode", mode, {"en": f"one of {', '.join(MODES)}", "zh": f"{'、'.join(MODES)} 之一"})
        if persona:
            self._participants.persona(persona)
        greets = mode is not None and not conversation.messages
        if character is not None and character != conversation.character:
            self._replace_character(conversation, character, mode)
            greets = True
        if mode is not None:
            conversation.mode = mode
        if persona is not None:
            conversation.persona = persona
        if greets and conversation.mode != INSTRUCT:
            self._greet(conversation)

    def _default_character(self, mode: str) -> str:
        """Return the character of the settings if it exists and the mode plays one, else ""."""
        id = self._participants.settings.character
        if id and mode != INSTRUCT:
            with suppress(CharacterNotFound):
                return self._participants.character(id).id
        return ""

    def _replace_character(self, conversation: Conversation, character: str, mode: str | None) -> None:
        if any(message.role == "user" or message.parent != ROOT for message in conversation.messages.values()):
            raise ConversationBegun()
        if character:
            self._participants.character(character)
        for id in list(conversation.messages):
            conversation.remove(id)
        conversation.character = character
        if mode is None:
            conversation.mode = self._mode_for(conversation.mode, character)

    def _mode_for(self, mode: str, character: str) -> str:
        """Return the mode for a character, or for none, given the present one."""
        if not character:
            return INSTRUCT
        if mode != INSTRUCT:
            return mode
        with suppress(WebUIError):  # no model is loaded
            model = self._models.current
            return CHAT if self._templates.of(model.record, model.info).is_ours else CHAT_INSTRUCT
        return CHAT_INSTRUCT

    def _greet(self, conversation: Conversation) -> None:
        people = self._participants.of(conversation)
        greetings = [conversation.add("assistant", people.fill(text), ROOT) for text in people.character.greetings]
        if greetings:
            conversation.select(greetings[0].id)
