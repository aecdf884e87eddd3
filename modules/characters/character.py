"""A character as a conversation needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.characters.lorebook import Lorebook
from modules.core.events import Json


@dataclass(frozen=True)
class Character:
    """`id` is the stem of the file. Texts may contain macros: see `macros.py`.

    The first of `greetings` is the one that a conversation begins with, the others are its alternatives. `examples` is
    example dialogue, whose parts begin with <START>. `user_name` is how the file calls the user. `creator_notes` are
    for people, never for a model. `card` is the whole card the character came from.
    """

    id: str
    name: str
    context: str = ""
    greetings: tuple[str, ...] = ()
    examples: str = ""
    system_prompt: str = ""
    post_history: str = ""
    user_name: str = ""
    lorebook: Lorebook | None = None
    creator_notes: str = ""
    card: Mapping[str, Json] | None = None
