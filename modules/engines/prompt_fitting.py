"""Shorten a prompt until it fits, where tokens can be counted: in the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modules.core.prompt import Prompt
from modules.core.worker_errors import PromptTooLong, TextTooLong
from modules.engines.token_ids import check_token_id

Encode = Callable[[str], list[int]]
"""Return the tokens of a text, after a BOS token where the model wants one."""

LONGEST_TOKEN = 256
"""Characters: more than any token of a vocabulary has. The longest are 128 spaces, and runs of punctuation marks."""


@dataclass(frozen=True)
class Fitted:
    """The tokens of a prompt. `shortened` is the index of the shorter text that they are of, -1 for the whole one."""

    tokens: list[int]
    shortened: int = -1


def fit(prompt: Prompt, encode: Encode, context_length: int, vocabulary_size: int) -> Fitted:
    """Return the tokens of `prompt`, shortened in its own way if they are more than its limit.

    A text that cannot fit whatever its tokens are is not tokenized, which takes seconds for some megabytes. Raises
    PromptTooLong if even the shortest text has too many tokens, TextTooLong if it was not tokenized. Of a prompt of
    token ids, each must be below `vocabulary_size`, else OptionError is raised.
    """
    limit = prompt.limit or context_length
    if prompt.tokens:
        return Fitted(_fitting_ids(prompt, encode, vocabulary_size))
    longest = LONGEST_TOKEN * limit
    if prompt.truncate and prompt.limit:
        return Fitted(_truncated(encode(prompt.text[-longest:]), limit, encode))
    tokens = encode(prompt.text) if len(prompt.text) <= longest else None
    if tokens is not None and (not prompt.limit or len(tokens) <= limit):
        return Fitted(tokens)
    # Of the shorter texts, those before `low` exceed the goal, those from `high` on do not.
    goal = prompt.target or limit
    too_long, fitting, nearly, low, high = tokens, None, None, 0, len(prompt.shorter)
    while low < high:
        middle = (low + high) // 2
        text = prompt.shorter[middle].apply(prompt.text)
        tokens = encode(text) if len(text) <= longest else None
        if tokens is not None and len(tokens) <= goal:
            fitting, high = Fitted(tokens, middle), middle
            continue
        if tokens is not None and len(tokens) <= limit:
            nearly = Fitted(tokens, middle)
        too_long, low = tokens or too_long, middle + 1
    if found := fitting or nearly:
        return found
    if too_long is None:
        raise TextTooLong(len(prompt.text), limit)
    raise PromptTooLong(len(too_long), limit)


def _fitting_ids(prompt: Prompt, encode: Encode, vocabulary_size: int) -> list[int]:
    """Return the token ids of `prompt`, the last ones if there are too many and it may be truncated."""
    tokens = list(prompt.tokens)
    for token in tokens:
        check_token_id("tokens", token, vocabulary_size)
    if not prompt.limit or len(tokens) <= prompt.limit:
        return tokens
    if prompt.truncate:
        return _truncated(tokens, prompt.limit, encode)
    raise PromptTooLong(len(tokens), prompt.limit)


def _truncated(tokens: list[int], limit: int, encode: Encode) -> list[int]:
    """Return the last `limit` of `tokens`, among them those that every text of this model begins with."""
    if len(tokens) <= limit:
        return tokens
    prefix = encode("")
    kept = prefix if prefix and tokens[: len(prefix)] == prefix else []
    return kept + tokens[len(tokens) - max(limit - len(kept), 0) :]
