"""Generations can be repeated: a seed that is left to chance is drawn before, and the use of the cache is limited."""

from __future__ import annotations

from modules.engines.repetition import max_cached_tokens, with_seed
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


def test_the_use_of_the_cache_is_limited_only_if_a_limit_is_given() -> None:
    assert max_cached_tokens(generation_settings.resolve({})) is None
    assert [max_cached_tokens({"max_cached_tokens": limit}) for limit in (0, 7)] == [0, 7]
