"""Prompts of the notebook: plain text, the ids of tokens that a model has written, and text to be filled in."""

from __future__ import annotations

from collections.abc import Mapping

from modules.chat.prompt import room
from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.notebook.notebook import Beginning
from modules.runtime.loaded_model import LoadedModel

LONGEST_TOKEN = 256
"""Characters: no token has more. What is further from the end than the context can reach is not tokenized."""


def prompt_of(model: LoadedModel, beginning: Beginning, params: Mapping[str, Json]) -> Prompt:
    """Return the prompt for what follows `beginning.before`: of a long text, its last tokens.

    Tokens that the model has written stay as they are: tokenized anew, the same text could be other tokens.
    """
    limit, passage = room(model, params), beginning.passage
    if not passage.tokens:
        return Prompt(beginning.before, limit, truncate=True)
    text = beginning.before[: passage.start]
    ids = model.ask("encode", text=text[-LONGEST_TOKEN * limit :])
    return Prompt("", limit, truncate=True, tokens=(*ids, *(token.id for token in passage.tokens)))


def count_tokens(model: LoadedModel, text: str) -> int:
    """Return how many tokens the text has as a prompt."""
    return int(model.ask("count", text=text))
