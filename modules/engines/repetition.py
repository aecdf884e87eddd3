"""Repeat generations: by their seed, and how much of its prompt was in the KV cache.

Tokens that are evaluated together have slightly other keys and values than the same tokens one by one, and at
temperature 1 that soon changes the text. A repetition therefore takes no more tokens from the cache than the first
generation did.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from modules.core.events import Json
from modules.options.generation import PARAMETERS

MAX_CACHED_TOKENS = "max_cached_tokens"
"""Key of a number among the parameters of a generation: no more tokens of the prompt may come from the KV cache."""


def with_seed(params: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return `params` with a random seed in place of -1."""
    if params.get("seed", 0) >= 0:
        return params
    return {**params, "seed": secrets.randbelow(int(PARAMETERS["seed"].maximum or 0) + 1)}


def max_cached_tokens(params: Mapping[str, Json]) -> int | None:
    """Return how many tokens of the prompt may come from the KV cache, None for any number."""
    limit = params.get(MAX_CACHED_TOKENS)
    return None if limit is None else int(limit)
