"""The number of threads is measured once per machine, in a second, where more than one number is plausible."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.system import cpu_memory, thread_count
from modules.system.thread_count import default_threads, fastest, measure, plausible_counts, remember, remembered


class Machine:
    """A machine whose tokens take so many seconds by the number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._seconds = seconds
        self.now = 0.0
        self.tokens: list[int] = []
        self._threads = 0

    def use(self, threads: int) -> None:
        self._threads = threads

    def decode(self) -> None:
        self.tokens.append(self._threads)
        self.now += self._seconds[self._threads]

    def measure(self) -> dict[int, float]:
        return measure(list(self._seconds), self.use, self.decode, lambda: self.now)


@pytest.fixture
def cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that gives this process so many cores with so many hyperthreads each."""
    monkeypatch.setattr(cpu_memory, "_CPUS", tmp_path)

    def set_cores(count: int, hyperthreads: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(count * hyperthreads)))
        for cpu in range(count * hyperthreads):
            siblings = tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings"
            siblings.parent.mkdir(parents=True, exist_ok=True)
            siblings.write_text(f"{cpu % count}\n")

    return set_cores


def test_plausible_are_the_cores_all_cpus_and_on_larger_machines_a_core_less(
    cores: Callable[[int, int], None],
) -> None:
    for count, hyperthreads, expected in (
        (1, 1, [1]),
        (2, 1, [2]),
        (2, 2, [2, 4]),
        (3, 1, [3]),
        (4, 1, [4, 3]),
        (8, 2, [8, 16, 7]),
    ):
        cores(count, hyperthreads)
        assert plausible_counts() == expected


def test_the_measurement_takes_a_second_and_finds_the_fastest_number() -> None:
    machine = Machine({4: 0.02, 8: 0.025, 3: 0.015})
    rates = machine.measure()
    assert machine.now == pytest.approx(1.0, abs=0.05)
    assert [round(rate) for rate in rates.values()] == [50, 40, 67]
    assert machine.tokens[0] == 4 and set(machine.tokens) == {4, 8, 3}
    assert fastest(rates) == 3


def test_a_model_too_slow_for_a_second_is_not_measured() -> None:
    machine = Machine({4: 0.6, 8: 0.5, 3: 0.7})
    assert machine.measure() == {}
    assert machine.tokens == [4]


def test_another_number_than_that_of_the_cores_must_be_clearly_faster() -> None:
    assert fastest({4: 100.0, 8: 102.0}) == 4
    assert fastest({4: 100.0, 8: 104.0}) == 8
    assert fastest({}) == 0


def test_rates_are_remembered_for_the_machine_and_its_cores(
    cores: Callable[[int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cache" / "threads.json"
    cores(4, 2)
    assert (remembered(file), default_threads(file)) == ({}, 4)
    remember({4: 20.0, 8: 25.0, 3: 18.0}, file)
    assert (remembered(file), default_threads(file)) == ({4: 20.0, 8: 25.0, 3: 18.0}, 8)
    cores(2, 2)
    assert (remembered(file), default_threads(file)) == ({}, 2)
    cores(4, 2)
    monkeypatch.setattr(thread_count, "_processor", lambda: "another one")
    assert remembered(file) == {}


def test_a_damaged_file_counts_as_none(cores: Callable[[int, int], None], tmp_path: Path) -> None:
    cores(4, 1)
    file = tmp_path / "threads.json"
    for rates in ({}, [], "x", {"4": 1.0}, {"4": "fast", "3": 1.0}, {"4": -1.0, "3": 1.0}):
        file.write_text(json.dumps({thread_count._machine(): rates}))
        assert (remembered(file), default_threads(file)) == ({}, 4)
    file.write_text("{")
    assert default_threads(file) == 4
    remember({4: 20.0, 3: 25.0}, file)
    assert default_threads(file) == 3


def test_a_machine_without_a_list_of_processors_is_known_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_count, "_CPU_INFO", tmp_path / "cpuinfo")
    file = tmp_path / "threads.json"
    rates = dict.fromkeys(plausible_counts(), 5.0)
    remember(rates, file)
    (name,) = json.loads(file.read_text())
    assert name.startswith(platform.processor() or platform.machine()) and remembered(file) == rates
    (tmp_path / "cpuinfo").write_text("flags: x\nmodel name\t: Some CPU @ 3 GHz\n")
    assert remembered(file) == {}, "this is another machine"
