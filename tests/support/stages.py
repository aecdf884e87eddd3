"""A pytest plugin that sorts tests into stages by the resources they use, and reports stages over their time budget.

A test belongs to the stage of the most expensive resource among its fixtures, direct or indirect. Everything else is a
unit test: five seconds each, no real model, no whole program. `./test.sh quick` runs the unit tests.

Under pytest-xdist, each process and its children run on a separate core, because models that share cores slow each
other down. Files of the expensive stages run first, so that no long one is left to run alone at the end.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.core.paths import ROOT


@dataclass(frozen=True)
class Stage:
    """A group of tests. `resources` are fixture names. `test_seconds` limits one test, `budget_seconds` all of them.

    Budgets are summed over processes: two processes take 20 minutes for all stages, three 70 s for the unit tests.
    """

    name: str
    resources: frozenset[str]
    test_seconds: int
    budget_seconds: int


# A test belongs to the first stage with a resource that it uses.
STAGES = (
    Stage("page", frozenset({"chromium"}), 600, 800),
    Stage("program", frozenset({"whole_program", "package_index"}), 600, 250),
    Stage("backend", frozenset({"smollm2", "backend"}), 900, 1050),
    Stage("unit", frozenset(), 5, 200),
)
QUICK_BUDGET_SECONDS, FULL_BUDGET_SECONDS = 90, 20 * 60
SLOWEST = 10

# Programs that unit tests must not start.
_WHOLE_PROGRAMS = ("server.py", "download-model.py", "start.sh", "test.sh", "chromium", "pip")
_MODULE_FIXTURES = re.compile(r"^pytestmark = pytest\.mark\.usefixtures\((.*)\)", re.MULTILINE)
_REAL_MODEL = str(ROOT / "models" / "SmolLM2")


def stage_of(fixtures: frozenset[str]) -> Stage:
    """Return the stage of a test that uses these fixtures, directly or through others."""
    return next(stage for stage in STAGES if stage.resources & fixtures or not stage.resources)


def stay_on_one_core(process: str, processes: int) -> None:
    """Pin this pytest-xdist process ("gw0", "gw1", …) and thereby its children to a separate core."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= processes:
            os.sched_setaffinity(0, {cores[int(process.removeprefix("gw"))]})


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        stay_on_one_core(config.workerinput["workerid"], config.workerinput["workercount"])
    for stage in STAGES:
        resources = " or ".join(sorted(stage.resources)) or "none of the other stages' resources"
        config.addinivalue_line(
            "markers", f"{stage.name}: set by tests/support/stages.py for tests that use {resources}"
        )
    config.pluginmanager.register(UnitGuard(), "unit-guard")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(BudgetReport(), "budget-report")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files without unit tests if only unit tests are selected: some import torch, which takes seconds."""
    if config.option.markexpr != "unit" or collection_path.suffix != ".py":
        return None
    match = _MODULE_FIXTURES.search(collection_path.read_text(encoding="utf-8"))
    if match is None:
        return None
    return bool(stage_of(frozenset(re.findall(r'"(\w+)"', match[1]))).resources) or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep modules and tests out of garbage collections, and make full ones, of all that reports keep, rare."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(700, 10, 200)
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Collect garbage once. As it ends, pytest does so five times, to find errors that no one has caught."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    most_expensive: dict[Path, int] = {}
    for item in items:
        stage = stage_of(frozenset(getattr(item, "fixturenames", ())))
        item.add_marker(stage.name)
        if item.get_closest_marker("timeout") is None:
            # Only for the test function: an alarm while pytest writes a report would end the run.
            item.add_marker(pytest.mark.timeout(stage.test_seconds, func_only=True))
        most_expensive[item.path] = min(most_expensive.get(item.path, len(STAGES)), STAGES.index(stage))
    items.sort(key=lambda item: most_expensive[item.path])


class UnitGuard:
    """Fails unit tests that open the real model or start a whole program without asking for the fixture."""

    def __init__(self) -> None:
        self._guarded = False
        self._violations: list[str] = []
        sys.addaudithook(self._audit)  # audit hooks cannot be removed

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._guarded:
            return
        if event == "subprocess.Popen":
            command = arguments[1] if isinstance(arguments[1], (list, tuple)) else [arguments[1]]
            words = [str(word).rpartition("/")[2] for word in command]
            self._violations += [f"starts {word}" for word in words if word in _WHOLE_PROGRAMS]
        elif event == "open" and str(arguments[0]).startswith(_REAL_MODEL):
            self._violations.append(f"opens {arguments[0]}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        self._guarded, self._violations = item.get_closest_marker("unit") is not None, []
        try:
            yield
        finally:
            self._guarded = False
        if self._violations:
            resources = sorted(name for stage in STAGES for name in stage.resources)
            pytest.fail(
                f"a unit test {self._violations[0]}; it must use one of the fixtures {resources}", pytrace=False
            )


class BudgetReport:
    """Adds up the time of each stage and prints stages over their budget, with their slowest tests."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, float]] = {stage.name: {} for stage in STAGES}
        self._started = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "context"):  # a subtest, whose time is included in that of its test
            return
        for name, tests in self._seconds.items():
            if name in report.keywords:
                tests[report.nodeid] = tests.get(report.nodeid, 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        for stage in STAGES:
            tests = self._seconds[stage.name]
            if not tests:
                continue
            total = sum(tests.values())
            write(f"{stage.name}: {len(tests)} tests, {total:.0f} s of {stage.budget_seconds} s")
            if total > stage.budget_seconds:
                write(f"The stage `{stage.name}` exceeds its budget. Its {SLOWEST} slowest tests:", red=True)
                for nodeid in sorted(tests, key=tests.__getitem__, reverse=True)[:SLOWEST]:
                    write(f"  {tests[nodeid]:7.2f} s  {nodeid}")
        only_unit = not any(self._seconds[stage.name] for stage in STAGES if stage.resources)
        budget = QUICK_BUDGET_SECONDS if only_unit else FULL_BUDGET_SECONDS
        elapsed = time.monotonic() - self._started
        if elapsed > budget:
            write(f"The run took {elapsed:.0f} s; its budget is {budget} s.", red=True)
