"""Write a conversation with a character as a script: what the character is, and lines that begin with names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from modules.characters.lorebook import select
from modules.chat.example_dialogue import START, read_examples
from modules.chat.message import Message
from modules.chat.participants import Participants
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.events import Json

CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- if message.content %}{{ message.content ~ '\\n\\n' }}{% endif %}
{%- if user_bio %}{{ user_bio ~ '\\n\\n' }}{% endif %}
{%- else %}
{{- name1 if message.role == 'user' else name2 }}: {{ message.content ~ '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ name2 ~ ':' }}{% endif %}"""
"""The template of the script, unless the setting chat_template_str has another one."""

_SETTING = "chat_template_str (settings.yaml)"
_ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)
_NAME_MACROS = {"<USER>": "{{ name1 }}", "<BOT>": "{{ name2 }}"}


class Script:
    """The script of one conversation. `count` returns the tokens of a text, for the budget of lorebooks.

    Methods raise what `ChatTemplates.render` raises.
    """

    def __init__(
        self,
        templates: ChatTemplates,
        participants: Participants,
        source: str,
        special_tokens: Mapping[str, Json],
        count: Callable[[str], int],
    ) -> None:
        self._templates, self._participants, self._count = templates, participants, count
        user, char = participants.user, participants.char
        bio = participants.fill(participants.bio)
        names = {"name1": user, "name2": char, "user": user, "char": char, "user_bio": bio}
        for macro, variable in _NAME_MACROS.items():
            source = source.replace(macro, variable)
        self.template = ModelTemplate(_SETTING, source or CHAT_TEMPLATE, special_tokens=special_tokens, variables=names)

    def render(
        self, messages: Sequence[Message], *, continue_last: bool = False, generation_prompt: bool = True
    ) -> str:
        """Return the script up to the next line of the character, or to the end of the last message."""
        return self._templates.render(
            self.template, messages, continue_last=continue_last, generation_prompt=generation_prompt
        )

    def opening(self, texts: Sequence[str], system: str | None) -> list[Message]:
        """Return the message that the script begins with, as a list; an empty one if there is nothing to say.

        `texts` are those of the conversation, for the lorebook. `system` is the conversation's system message, which a
        card may quote; None if the model gets it apart from the script.
        """
        character, fill = self._participants.character, self._participants.fill
        before, after = select(character.lorebook, texts, self._count) if character.lorebook else ((), ())
        parts = [
            *([self.system_message(system)] if system is not None and character.system_prompt.strip() else []),
            *(fill(entry.text) for entry in before),
            fill(character.context),
            *(fill(entry.text) for entry in after),
            *self._examples(),
        ]
        context = "\n\n".join(part for part in parts if part.strip())
        return (
            [{"role": "system", "content": context}] if context or self.template.variables["user_bio"].strip() else []
        )

    def system_message(self, system: str) -> str:
        """Return the character's system prompt, or `system` if it has none."""
        prompt = self._participants.character.system_prompt
        if not prompt.strip():
            return system
        return self._participants.fill(_ORIGINAL.sub(lambda _: system, prompt)).strip()

    def post_history(self) -> str:
        """Return the instructions that the character's card has after the last message; "" for none."""
        return self._participants.fill(_ORIGINAL.sub("", self._participants.character.post_history)).strip()

    def render_reply(self, messages: Sequence[Message], *, continue_last: bool = False) -> str:
        """Return the script for a reply, with the card's last instructions before it."""
        whole, instructions = self.render(messages, continue_last=continue_last), self.post_history()
        if not instructions:
            return whole
        earlier = messages[:-1] if continue_last else messages
        head = self.render(earlier, generation_prompt=False) if earlier else ""
        if whole.startswith(head):
            return f"{_with_newline(head)}{instructions}\n{whole[len(head) :]}"
        instructed = [*earlier, {"role": "system", "content": instructions}, *messages[len(earlier) :]]
        return self.render(instructed, continue_last=continue_last)

    def _examples(self) -> list[str]:
        names = self._participants.user, self._participants.char
        blocks = read_examples(self._participants.fill(self._participants.character.examples), *names)
        texts = []
        for block in blocks:
            lines = self.render(block.messages, generation_prompt=False).strip() if block.messages else ""
            texts.append("\n".join(filter(None, (START, block.heading, lines))))
        return texts


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
