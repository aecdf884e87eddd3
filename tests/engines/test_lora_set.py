"""Applying sets of adapters: a new set is active as a whole, or the former one is.

The adapters of these tests are files with a number that they add to every logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.engines.lora_set import AdapterBackend, AdapterRefused, AdapterRequest, LoraSet


class AddingBackend:
    """A backend without a model. `noise` is how much two successive probes differ."""

    def __init__(self, noise: float = 0.0) -> None:
        self.open_adapters: list[float] = []
        self.active: list[tuple[float, float]] = []
        self._noise, self._probes = noise, 0

    def open(self, path: Path) -> float:
        if path.name == "refused":
            raise AdapterRefused("not accepted")
        value = float(path.read_text())
        self.open_adapters.append(value)
        return value

    def close(self, handle: float) -> None:
        self.open_adapters.remove(handle)

    def activate(self, adapters: Sequence[tuple[float, float]]) -> None:
        if any(value > 1e6 for value, _ in adapters):
            raise RuntimeError("out of range")
        self.active = list(adapters)

    def probe(self) -> NDArray[np.float32]:
        self._probes += 1
        added = sum(value * weight for value, weight in self.active)
        return np.full((3, 5), added + self._noise * (self._probes % 2), np.float32)


_: AdapterBackend = AddingBackend()


@pytest.fixture
def requests(tmp_path: Path) -> dict[str, AdapterRequest]:
    values = {"one": "1", "two": "2", "none": "0", "endless": "inf", "broken": "x", "huge": "1e7"}
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    return {name: {"name": name, "path": str(tmp_path / name), "weight": 1.0} for name in values}


def test_the_effect_of_every_adapter_is_measured_alone(requests: dict[str, AdapterRequest]) -> None:
    model = AddingBackend()
    assert LoraSet(model).apply([requests["one"], {**requests["two"], "weight": 0.5}]) == [1, 1]
    assert model.active == [(1, 1), (2, 0.5)]


def test_a_weight_changes_without_reading_the_file_again(requests: dict[str, AdapterRequest]) -> None:
    model = AddingBackend()
    loras = LoraSet(model)
    loras.apply([requests["one"]])
    assert loras.apply([{**requests["one"], "weight": 2.0}]) == [2]
    assert model.open_adapters == [1]


def test_adapters_that_are_no_longer_applied_are_closed(requests: dict[str, AdapterRequest]) -> None:
    model = AddingBackend()
    loras = LoraSet(model)
    loras.apply([requests["one"], requests["two"]])
    loras.apply([requests["two"]])
    assert model.open_adapters == [2] and model.active == [(2, 1)]
    assert loras.apply([]) == []
    assert model.open_adapters == model.active == []


@pytest.mark.parametrize("bad", ["none", "endless", "broken", "huge", "missing"])
def test_after_a_refusal_the_former_set_is_active(
    bad: str, requests: dict[str, AdapterRequest], tmp_path: Path
) -> None:
    requests["missing"] = {"name": "missing", "path": str(tmp_path / "missing"), "weight": 1.0}
    model = AddingBackend()
    loras = LoraSet(model)
    loras.apply([requests["one"]])
    with pytest.raises(LoraWithoutEffect if bad == "none" else LoraRefused) as refusal:
        loras.apply([requests["two"], requests[bad]])
    assert bad in str(refusal.value)
    assert model.active == [(1, 1)] and model.open_adapters == [1]


def test_the_message_of_a_refusal_is_shown_unchanged(tmp_path: Path) -> None:
    (tmp_path / "refused").touch()
    with pytest.raises(LoraRefused) as refusal:
        LoraSet(AddingBackend()).apply([{"name": "cat", "path": str(tmp_path / "refused"), "weight": 1.0}])
    assert refusal.value.words == "not accepted"


def test_noise_does_not_count_as_an_effect(requests: dict[str, AdapterRequest]) -> None:
    with pytest.raises(LoraWithoutEffect):
        LoraSet(AddingBackend(noise=3)).apply([requests["one"]])


def test_a_weight_of_0_is_allowed(requests: dict[str, AdapterRequest]) -> None:
    model = AddingBackend()
    assert LoraSet(model).apply([{**requests["one"], "weight": 0.0}]) == [0]
    assert model.active == []


def test_a_changed_file_is_read_again(requests: dict[str, AdapterRequest]) -> None:
    model = AddingBackend()
    loras = LoraSet(model)
    loras.apply([requests["one"]])
    Path(requests["one"]["path"]).write_text("1.5")
    assert loras.apply([requests["one"]]) == [1.5]
    assert model.open_adapters == [1.5]
