"""The order of work with adapters: a set in force whole and proven, or the former one. The adapters here are files that
say by how much they add to every logit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.engines.lora_set import AdapterBackend, AdapterRefused, AdapterRequest, LoraSet


class Adding:
    """A model of no weights at all. `noise` is how much each reading differs from the one before."""

    def __init__(self, noise: float = 0.0) -> None:
        self.open_ones: list[float] = []
        self.in_force: list[tuple[float, float]] = []
        self._noise, self._readings = noise, 0

    def open(self, path: Path) -> float:
        if path.name == "unwanted":
            raise AdapterRefused("it says no")
        value = float(path.read_text())
        self.open_ones.append(value)
        return value

    def close(self, handle: float) -> None:
        self.open_ones.remove(handle)

    def activate(self, wanted: Sequence[tuple[float, float]]) -> None:
        if any(value > 1e6 for value, _ in wanted):
            raise RuntimeError("out of range")
        self.in_force = list(wanted)

    def probe(self) -> NDArray[np.float32]:
        self._readings += 1
        added = sum(value * weight for value, weight in self.in_force)
        return np.full((3, 5), added + self._noise * (self._readings % 2), np.float32)


_: AdapterBackend = Adding()


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, AdapterRequest]:
    values = {"one": "1", "two": "2", "none": "0", "endless": "inf", "broken": "x", "huge": "1e7"}
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    return {name: {"name": name, "path": str(tmp_path / name), "weight": 1.0} for name in values}


def test_each_has_the_effect_that_it_has_alone(asked: dict[str, AdapterRequest]) -> None:
    model = Adding()
    assert LoraSet(model).apply([asked["one"], {**asked["two"], "weight": 0.5}]) == [1, 1]
    assert model.in_force == [(1, 1), (2, 0.5)]


def test_a_weight_can_change_without_reading_again(asked: dict[str, AdapterRequest]) -> None:
    model = Adding()
    loras = LoraSet(model)
    loras.apply([asked["one"]])
    assert loras.apply([{**asked["one"], "weight": 2.0}]) == [2]
    assert model.open_ones == [1]


def test_what_is_not_wanted_any_more_is_let_go(asked: dict[str, AdapterRequest]) -> None:
    model = Adding()
    loras = LoraSet(model)
    loras.apply([asked["one"], asked["two"]])
    loras.apply([asked["two"]])
    assert model.open_ones == [2] and model.in_force == [(2, 1)]
    assert loras.apply([]) == []
    assert model.open_ones == model.in_force == []


@pytest.mark.parametrize("bad", ["none", "endless", "broken", "huge", "missing"])
def test_after_a_refusal_the_former_set_is_in_force(bad: str, asked: dict[str, AdapterRequest], tmp_path: Path) -> None:
    asked["missing"] = {"name": "missing", "path": str(tmp_path / "missing"), "weight": 1.0}
    model = Adding()
    loras = LoraSet(model)
    loras.apply([asked["one"]])
    with pytest.raises(LoraWithoutEffect if bad == "none" else LoraRefused) as refusal:
        loras.apply([asked["two"], asked[bad]])
    assert bad in str(refusal.value)
    assert model.in_force == [(1, 1)] and model.open_ones == [1]


def test_a_refusal_in_the_engines_own_words_is_said_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "unwanted").touch()
    with pytest.raises(LoraRefused) as refusal:
        LoraSet(Adding()).apply([{"name": "cat", "path": str(tmp_path / "unwanted"), "weight": 1.0}])
    assert refusal.value.words == "it says no"


def test_noise_is_no_effect(asked: dict[str, AdapterRequest]) -> None:
    with pytest.raises(LoraWithoutEffect):
        LoraSet(Adding(noise=3)).apply([asked["one"]])


def test_a_weight_of_nothing_is_no_fault(asked: dict[str, AdapterRequest]) -> None:
    model = Adding()
    assert LoraSet(model).apply([{**asked["one"], "weight": 0.0}]) == [0]
    assert model.in_force == []


def test_a_file_that_has_changed_is_read_anew(asked: dict[str, AdapterRequest]) -> None:
    model = Adding()
    loras = LoraSet(model)
    loras.apply([asked["one"]])
    Path(asked["one"]["path"]).write_text("1.5")
    assert loras.apply([asked["one"]]) == [1.5]
    assert model.open_ones == [1.5]
