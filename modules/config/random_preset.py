"""Draw sampling parameters at random, to find out what they do."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from modules.options.option import Value

Draw = Mapping[str, Sequence[Value]]
"""Parameters that are drawn together, each with the values that it may get."""

_TRUNCATION: Sequence[Draw] = (
    {"top_p": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)},
    {"min_p": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)},
    {"top_k": (5, 10, 20, 40, 80, 200)},
    {"typical_p": (0.3, 0.5, 0.7, 0.9, 0.95)},
    {"top_n_sigma": (0.8, 1.0, 1.5, 2.0)},
    {"tfs": (0.5, 0.7, 0.9, 0.97)},
    {"top_a": (0.02, 0.1, 0.2, 0.4)},
)
_TEMPERATURE: Sequence[Draw] = (
    {"temperature": (0.3, 0.5, 0.7, 0.85, 1.15, 1.3, 1.5, 1.8)},
    {"dynamic_temperature": (True,), "dynatemp_low": (0.2, 0.5, 0.8), "dynatemp_high": (1.2, 1.5, 2.0)},
    {"smoothing_factor": (0.15, 0.3, 0.6, 1.0, 2.0)},
)
_REPETITION: Sequence[Draw] = (
    {"repetition_penalty": (1.02, 1.05, 1.1, 1.15, 1.2)},
    {"frequency_penalty": (0.1, 0.3, 0.5)},
    {"presence_penalty": (0.1, 0.3, 0.6)},
    {"dry_multiplier": (0.5, 0.8, 1.2)},
    {},
)
_NOVELTY: Sequence[Draw] = ({"xtc_probability": (0.2, 0.5), "xtc_threshold": (0.08, 0.1, 0.15)}, {}, {})

KINDS = (_TRUNCATION, _TEMPERATURE, _REPETITION, _NOVELTY)


def random_values(supported: Collection[str], chance: random.Random) -> dict[str, Value]:
    """Return one way of truncation, one of temperature, and mostly one against repetition, with their values.

    Only parameters in `supported` are drawn; all others are to be neutral.
    """
    values: dict[str, Value] = {}
    for kind in KINDS:
        usable = [draw for draw in kind if set(draw) <= set(supported)]
        drawn = chance.choice(usable) if usable else {}
        values |= {key: chance.choice(choices) for key, choices in drawn.items()}
    return values
