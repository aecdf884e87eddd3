"""Schedules that fit small data."""

from __future__ import annotations

import pytest

from modules.engines.training.arguments import schedule
from modules.training.fit import ENOUGH_UPDATES, fitted
from modules.training.parameters import parse_parameters


def test_small_data_gets_enough_updates(subtests: pytest.Subtests) -> None:
    for rows in (1, 3, 7, 20, 100, 641):
        for sizes in ({}, {"batch_size": 2, "micro_batch_size": 1}, {"epochs": 0.5}, {"packing": True}):
            with subtests.test(ascii({"rows": rows, **sizes})):
                parameters = parse_parameters(sizes)
                changes = fitted(parameters, rows)
                changed = parse_parameters({**parameters, **changes})
                assert schedule(changed, rows).updates >= ENOUGH_UPDATES
                assert not changes or schedule(changed, rows).updates < 2 * ENOUGH_UPDATES
                assert int(changed["batch_size"]) >= min(4, int(parameters["batch_size"]))


def test_enough_data_and_no_data_change_nothing() -> None:
    assert fitted(parse_parameters({}), 10_000) == fitted(parse_parameters({}), 0) == {}
