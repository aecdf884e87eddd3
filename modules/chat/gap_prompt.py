"""Prompts for a gap in a text, for models that were trained to fill it in."""

from __future__ import annotations

from collections.abc import Mapping

from modules.chat.prompt import room
from modules.core.events import Json
from modules.core.fill_in_middle import FimTokens
from modules.core.prompt import Prompt
from modules.engines.prompt_fitting import LONGEST_TOKEN
from modules.runtime.loaded_model import LoadedModel

AFTER_SHARE = 4
"""The text after a gap gets at least one of so many parts of the prompt, if all of the text is too long."""
MARKERS = 3
"""Tokens that mark the texts around a gap, at most."""


def gap_prompt(
    model: LoadedModel, fim: FimTokens, before: str, after: str, params: Mapping[str, Json], begun: str = ""
) -> Prompt:
    """Return the prompt for a gap between two texts, of which the nearest parts are kept that fit.

    `begun` is how what fills it begins.
    """
    limit = room(model, params)
    written: list[int] = model.ask("encode", text=begun, add_special=False) if begun else []
    first, last, bos = tokens_around(model, before, after, limit, len(written))
    tokens = (*fim.prompt(first, last, bos), *written)
    return Prompt("", limit, truncate=True, stop=fim.stops, visible=fim.stops, tokens=tokens)


def tokens_around(
    model: LoadedModel, before: str, after: str, limit: int, reserved: int = 0
) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens before and after a gap for which there is room, and those that every prompt begins with.

    A prompt may have `limit` tokens, of which `reserved` are used otherwise.
    """
    bos: list[int] = model.ask("encode", text="")
    first: list[int] = model.ask("encode", text=before[-LONGEST_TOKEN * limit :], add_special=False)
    last: list[int] = model.ask("encode", text=after[: LONGEST_TOKEN * limit], add_special=False)
    space = max(limit - len(bos) - MARKERS - reserved, 0)
    last = last[: max(space - len(first), space // AFTER_SHARE)]
    return first[max(len(first) + len(last) - space, 0) :], last, bos
