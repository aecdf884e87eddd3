"""Random presets are valid and use what the loader supports."""

from __future__ import annotations

import random

from modules.config.presets import NEUTRAL
from modules.config.random_preset import KINDS, random_values
from modules.loaders.registry import LOADERS
from modules.options.generation import PARAMETERS


def test_every_value_that_can_be_drawn_is_valid_and_has_an_effect() -> None:
    for kind in KINDS:
        for draw in kind:
            for key, values in draw.items():
                assert all(PARAMETERS[key].parse(value) == value for value in values)
                assert NEUTRAL[key] not in values or key == "xtc_threshold"


def test_only_supported_parameters_are_drawn_and_each_draw_differs() -> None:
    supported = LOADERS["llama.cpp"].samplers
    draws = [random_values(supported, random.Random(seed)) for seed in range(200)]
    assert {key for draw in draws for key in draw} <= supported
    assert {"top_p", "top_k", "temperature", "dry_multiplier", "xtc_probability"} <= {
        key for draw in draws for key in draw
    }
    assert len({tuple(draw.items()) for draw in draws}) > 100
    assert random_values((), random.Random(1)) == {}
