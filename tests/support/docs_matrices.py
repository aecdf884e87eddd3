"""A pytest plugin that generates the documentation's tables of loader abilities from test results.

A test marked `lora("one", "weights")` or `works("cpu", "streaming")` demonstrates these abilities of the loader that it
is parametrized with, or of the one given as `loader=`. A loader has an ability if at least one test demonstrates it and
none of these tests fails. A run of all such tests fails if the documentation differs:
`./test.sh -m "lora or works" --write-matrices` updates it.
"""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS

END = "<!-- end -->"


@dataclass(frozen=True)
class Table:
    """A table in `document`.

    `abilities` maps the arguments of a marker to column titles. `substitutes` maps further arguments to the ability in
    whose column a text is shown if that ability itself is not demonstrated. `otherwise` has texts by loader and ability
    for what no test demonstrates. `fixed` are columns not filled by tests: cells by loader, by column title.
    """

    document: Path
    marker: str
    title: str
    abilities: Mapping[str, str]
    substitutes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    otherwise: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    fixed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def begin(self) -> str:
        return f"<!-- table: {self.title}, by the tests that ran -->\n"

    @property
    def titles(self) -> list[str]:
        return ["loader 加载器", *self.abilities.values(), *self.fixed]

    def rows(self, text: str) -> list[list[str]]:
        """Return the cells of the table in `text`, by row, without the titles."""
        lines = text.partition(self.begin)[2].partition(END)[0].splitlines()
        return [line.strip("| ").split(" | ") for line in lines[2:]]


CALLS = "calls tested 已核对调用"
ELSEWHERE = "on a server 在服务器上"

LORAS = Table(
    ROOT / "docs" / "lora.md",
    "lora",
    "loras",
    {"one": "one LoRA 一个", "several": "several 多个", "weights": "weights 权重", "hot": "hot change 热切换"},
    # The requests to a server are right, but no server computed with a LoRA.
    substitutes={f"request {ability}": (ability, CALLS) for ability in ("one", "several", "weights", "hot")},
    # From the original's wiki, page "LoRA support", which calls two or more LoRAs with Transformers "unreliable".
    fixed={
        "original: one 原版：一个": dict.fromkeys(("Transformers", "ExLlamav2_HF", "ExLlamav2", "AutoGPTQ"), "✓"),
        "original: two or more 原版：多个": {"Transformers": "(✓)", "ExLlamav2_HF": "✓", "ExLlamav2": "✓"},
    },
)
WORKS = Table(
    ROOT / "docs" / "loaders.md",
    "works",
    "loaders",
    {
        "cpu": "run on a CPU CPU 实测",
        "gpu": "GPU: written, calls tested GPU：已编写并核对调用",
        "streaming": "streaming 流式",
        "concurrent": "several at once 并发",
        "cfg": "CFG",
        "samplers": "samplers 采样器",
    },
    substitutes={"stand-in": ("cpu", "on a stand-in 替身")},
    otherwise={
        # Its tests with a real vLLM are skipped where VLLM_CPU_PYTHON is not set: the table does not depend on that.
        "vLLM": {"cpu": "[by hand](vllm.md) 手动实测"},
        "Remote": {"cpu": ELSEWHERE, "gpu": ELSEWHERE},
    },
)
TABLES = (LORAS, WORKS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrices", action="store_true", help="write the tables of loaders from this run")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Matrices(config), "docs-matrices")


class Matrices:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: dict[tuple[str, str, str], list[bool]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # pytest-xdist sends added attributes of a report to the main process.
        report.__dict__["cells"] = list(_cells(item))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            for cell in getattr(report, "cells", ()):
                self._outcomes.setdefault(tuple(cell), []).append(report.passed)

    @property
    def _is_complete(self) -> bool:
        """Whether this run selected all the tests that fill the tables."""
        option = self._config.option
        all_paths = self._config.args == self._config.getini("testpaths")
        # There is no `lf` under `-p no:cacheprovider`.
        restricted = option.keyword or option.deselect or option.maxfail or getattr(option, "lf", False)
        return all_paths and not restricted and option.markexpr in ("", "lora or works")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        is_xdist_worker = hasattr(self._config, "workerinput")
        if is_xdist_worker or not self._is_complete or not self._outcomes or exitstatus not in (0, 1):
            return
        for table in TABLES:
            text = table.document.read_text(encoding="utf-8")
            before, _, after = text.partition(table.begin)
            updated = before + table.begin + self._render(table) + END + after.partition(END)[2]
            if updated == text:
                continue
            if self._config.option.write_matrices:
                table.document.write_text(updated, encoding="utf-8")
                continue
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\n{table.document.name} differs from the test results. To update it, run:")
            print('./test.sh -m "lora or works" --write-matrices')
            old, new = text.splitlines(), updated.splitlines()
            print("\n".join(difflib.unified_diff(old, new, table.document.name, "test results", n=0)))

    def _render(self, table: Table) -> str:
        lines = [table.titles, ["---"] * len(table.titles)]
        for name in LOADERS:
            cells = [self._cell(table, name, ability) for ability in table.abilities]
            lines.append([name, *cells, *(column.get(name, "") for column in table.fixed.values())])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _cell(self, table: Table, loader: str, ability: str) -> str:
        if self._is_demonstrated(table, loader, ability):
            return "✓"
        for substitute, (column, text) in table.substitutes.items():
            if column == ability and self._is_demonstrated(table, loader, substitute):
                return text
        return table.otherwise.get(loader, {}).get(ability, "")

    def _is_demonstrated(self, table: Table, loader: str, ability: str) -> bool:
        outcomes = self._outcomes.get((table.marker, loader, ability), [])
        return bool(outcomes) and all(outcomes)


def _cells(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    """Yield the table's marker, the loader and the ability for everything that `item` demonstrates."""
    callspec = getattr(item, "callspec", None)
    loader = callspec.params.get("loader") if callspec else None
    for table in TABLES:
        for marker in item.iter_markers(table.marker):
            name = marker.kwargs.get("loader") or getattr(loader, "name", loader)
            abilities = {*table.abilities, *table.substitutes}
            assert name in LOADERS and set(marker.args) <= abilities, f"{item.nodeid}: {marker.args} of {name!r}"
            yield from ((table.marker, name, ability) for ability in marker.args)
