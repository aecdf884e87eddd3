"""Seeds that were left to chance are drawn before a generation, so that it can be repeated."""

from __future__ import annotations

from modules.engines.seeds import with_seed
from modules.loaders import generation_settings


def test_a_seed_is_drawn_in_place_of_minus_one() -> None:
    params = generation_settings.resolve({"seed": -1})
    drawn = [with_seed(params) for _ in range(3)]
    assert len({chosen["seed"] for chosen in drawn}) == 3
    assert all(generation_settings.resolve({"seed": chosen["seed"]}) == chosen for chosen in drawn)
    assert params["seed"] == -1


def test_a_seed_that_was_chosen_is_kept() -> None:
    for params in ({"seed": 0}, {"seed": 42}, {}):
        assert with_seed(params) == params
