"""Tables in the documentation of what each loader does, made from the tests that ran. A pytest plugin.

A test marked `lora("one", "weights")` or `works("cpu", "streaming")` shows these of the loader that it is parametrized
with, or of `loader=`. A loader does what at least one test shows and none refutes. A run of all such tests fails if the
documentation says otherwise: `./test.sh -m "lora or works" --write-matrices` updates it.
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
    """A table in `document`. `shown` maps what a marker says to a column's title.

    Of `instead`, a word stands in the column of another ability where that one is not shown. `more` are columns that no
    test fills: title and cells by loader.
    """

    document: Path
    marker: str
    title: str
    shown: Mapping[str, str]
    instead: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def begin(self) -> str:
        return f"<!-- table: {self.title}, by the tests that ran -->\n"


LORAS = Table(
    ROOT / "docs" / "lora.md",
    "lora",
    "loras",
    {"one": "one LoRA 一个", "several": "several 多个", "weights": "weights 权重", "hot": "hot change 热切换"},
    # What the original's own table says (its wiki, "LoRA support"): of two or more, Transformers' "may be unreliable".
    more={
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
    instead={"stand-in": ("cpu", "on a stand-in 替身")},
)
TABLES = (LORAS, WORKS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrices", action="store_true", help="write the tables of loaders by this run")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Matrices(config), "docs-matrices")


class Matrices:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[tuple[str, str, str], list[bool]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # pytest-xdist carries an added attribute from its processes with the report.
        report.__dict__["cells"] = list(_cells(item))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            for cell in getattr(report, "cells", ()):
                self._seen.setdefault(tuple(cell), []).append(report.passed)

    @property
    def _whole(self) -> bool:
        """Whether this run was to have all the tests that the tables are made of."""
        option = self._config.option
        everything = self._config.args == self._config.getini("testpaths")
        # There is no `lf` under `-p no:cacheprovider`.
        some = option.keyword or option.deselect or option.maxfail or getattr(option, "lf", False)
        return everything and not some and option.markexpr in ("", "lora or works")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        in_a_process_of_xdist = hasattr(self._config, "workerinput")
        if in_a_process_of_xdist or not self._whole or not self._seen or exitstatus not in (0, 1):
            return
        for table in TABLES:
            text = table.document.read_text(encoding="utf-8")
            before, _, rest = text.partition(table.begin)
            due = before + table.begin + self._written(table) + END + rest.partition(END)[2]
            if due == text:
                continue
            if self._config.option.write_matrices:
                table.document.write_text(due, encoding="utf-8")
                continue
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\n{table.document.name} does not say what the tests show:")
            print('./test.sh -m "lora or works" --write-matrices')
            lines = difflib.unified_diff(text.splitlines(), due.splitlines(), table.document.name, "by the tests", n=0)
            print("\n".join(lines))

    def _written(self, table: Table) -> str:
        titles = ["loader 加载器", *table.shown.values(), *table.more]
        lines = [titles, ["---"] * len(titles)]
        for name in LOADERS:
            cells = [self._cell(table, name, what) for what in table.shown]
            lines.append([name, *cells, *(column.get(name, "") for column in table.more.values())])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _cell(self, table: Table, loader: str, what: str) -> str:
        if self._shows(table, loader, what):
            return "✓"
        return next(
            (
                said
                for other, (place, said) in table.instead.items()
                if place == what and self._shows(table, loader, other)
            ),
            "",
        )

    def _shows(self, table: Table, loader: str, what: str) -> bool:
        seen = self._seen.get((table.marker, loader, what), [])
        return bool(seen) and all(seen)


def _cells(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    """Tables' markers, the loaders and abilities that `item` shows something of."""
    given = getattr(item, "callspec", None)
    loader = given.params.get("loader") if given else None
    for table in TABLES:
        for marker in item.iter_markers(table.marker):
            name = marker.kwargs.get("loader") or getattr(loader, "name", loader)
            known = {*table.shown, *table.instead}
            assert name in LOADERS and set(marker.args) <= known, f"{item.nodeid}: {marker.args} of {name!r}"
            yield from ((table.marker, name, what) for what in marker.args)
