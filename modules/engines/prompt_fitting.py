"""Shorten a prompt until it fits, where tokens can be counted: in the worker."""

from __future__ import annotations

from collections.abc import Callable

from modules.core.errors import PromptTooLong
from modules.core.prompt import Prompt

Encode = Callable[[str], list[int]]
"""Return the tokens of a text, after a BOS token where the model wants one."""


def fit(prompt: Prompt, encode: Encode) -> list[int]:
    """Return the tokens of `prompt`, shortened in its own way if they are more than its limit.

    Raises PromptTooLong if even the shortest text has too many.
    """
    tokens = encode(prompt.text)
    if not prompt.limit or len(tokens) <= prompt.limit:
        return tokens
    if prompt.truncate:
        return _last(tokens, prompt.limit, encode(""))
    # Of the shorter texts, those before `low` do not fit, those from `high` on do.
    too_long, low, high = len(tokens), 0, len(prompt.shorter)
    while low < high:
        middle = (low + high) // 2
        shorter = encode(prompt.shorter[middle].apply(prompt.text))
        if len(shorter) <= prompt.limit:
            tokens, high = shorter, middle
        else:
            too_long, low = min(too_long, len(shorter)), middle + 1
    if high == len(prompt.shorter):
        raise PromptTooLong(too_long, prompt.limit)
    return tokens


def _last(tokens: list[int], limit: int, prefix: list[int]) -> list[int]:
    """Return the last `limit` of `tokens`, among them the `prefix` that every text of this model begins with."""
    kept = prefix if prefix and tokens[: len(prefix)] == prefix else []
    return kept + tokens[len(tokens) - max(limit - len(kept), 0) :]
