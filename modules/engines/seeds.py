"""The seed of a generation, drawn before it begins, so that it can be repeated."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from modules.core.events import Json
from modules.options.generation import PARAMETERS


def with_seed(params: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return `params` with a random seed in place of -1."""
    if params.get("seed", 0) >= 0:
        return params
    return {**params, "seed": secrets.randbelow(int(PARAMETERS["seed"].maximum or 0) + 1)}
