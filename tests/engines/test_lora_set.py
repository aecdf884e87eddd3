"""Sets of adapters: either all adapters of a new set become active, or the previous set stays active.

An adapter of these tests is a file with a number that is added to every logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.errors import Unsupported, both
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.engines.lora_set import AdapterBackend, AdapterRefused, AdapterRequest, LoraSet


class AddingBackend:
    """A backend without a model. `noise` is the difference between two successive probes."""

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


def test_the_effect_of_every_adapter_is_measured_separately(requests: dict[str, AdapterRequest]) -> None:
    backend = AddingBackend()
    assert LoraSet(backend).apply([requests["one"], {**requests["two"], "weight": 0.5}]) == [1, 1]
    assert backend.active == [(1, 1), (2, 0.5)]


def test_changing_a_weight_does_not_read_the_file_again(requests: dict[str, AdapterRequest]) -> None:
    backend = AddingBackend()
    loras = LoraSet(backend)
    loras.apply([requests["one"]])
    assert loras.apply([{**requests["one"], "weight": 2.0}]) == [2]
    assert backend.open_adapters == [1]


def test_adapters_that_are_no_longer_applied_are_closed(requests: dict[str, AdapterRequest]) -> None:
    backend = AddingBackend()
    loras = LoraSet(backend)
    loras.apply([requests["one"], requests["two"]])
    loras.apply([requests["two"]])
    assert backend.open_adapters == [2] and backend.active == [(2, 1)]
    assert loras.apply([]) == []
    assert backend.open_adapters == backend.active == []


@pytest.mark.parametrize("bad", ["none", "endless", "broken", "huge", "missing"])
def test_after_a_refusal_the_previous_set_is_active(
    bad: str, requests: dict[str, AdapterRequest], tmp_path: Path
) -> None:
    requests["missing"] = {"name": "missing", "path": str(tmp_path / "missing"), "weight": 1.0}
    backend = AddingBackend()
    loras = LoraSet(backend)
    loras.apply([requests["one"]])
    with pytest.raises(LoraWithoutEffect if bad == "none" else LoraRefused) as refusal:
        loras.apply([requests["two"], requests[bad]])
    assert bad in str(refusal.value)
    assert backend.active == [(1, 1)] and backend.open_adapters == [1]


def test_the_message_of_a_refusal_is_shown_unchanged(tmp_path: Path) -> None:
    (tmp_path / "refused").touch()
    with pytest.raises(LoraRefused) as refusal:
        LoraSet(AddingBackend()).apply([{"name": "cat", "path": str(tmp_path / "refused"), "weight": 1.0}])
    assert refusal.value.words == "not accepted"


def test_an_error_with_words_of_its_own_is_raised_as_it_is(requests: dict[str, AdapterRequest]) -> None:
    class Denying(AddingBackend):
        def open(self, path: Path) -> float:
            raise Unsupported(both("no adapters here"))

    with pytest.raises(Unsupported, match="no adapters here"):
        LoraSet(Denying()).apply([requests["one"]])


def test_noise_does_not_count_as_an_effect(requests: dict[str, AdapterRequest]) -> None:
    with pytest.raises(LoraWithoutEffect):
        LoraSet(AddingBackend(noise=3)).apply([requests["one"]])


def test_a_weight_of_0_is_allowed(requests: dict[str, AdapterRequest]) -> None:
    backend = AddingBackend()
    assert LoraSet(backend).apply([{**requests["one"], "weight": 0.0}]) == [0]
    assert backend.active == []


def test_a_changed_file_is_read_again(requests: dict[str, AdapterRequest]) -> None:
    backend = AddingBackend()
    loras = LoraSet(backend)
    loras.apply([requests["one"]])
    Path(requests["one"]["path"]).write_text("1.5")
    assert loras.apply([requests["one"]]) == [1.5]
    assert backend.open_adapters == [1.5]
