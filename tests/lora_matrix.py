"""README's table of what each loader does with LoRAs, made of the tests that ran. A plugin of pytest.

A test marked `lora("one", "weights")` shows these of the loader that it is parametrised with, or of `loader=`. What a
loader does is what at least one test shows and none refutes. A run of all such tests fails if README says otherwise:
`./test.sh -m lora --write-lora-matrix` writes what is so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.loaders import LOADERS

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- table: loras, by the tests that ran -->\n", "<!-- end -->"
SHOWN = {"one": "one LoRA 一个", "several": "several 多个", "weights": "weights 权重", "hot": "hot change 热切换"}
# What the original's own table says (its wiki, "LoRA support"): of two or more, Transformers' "may be unreliable".
ORIGINAL = {
    "Transformers": ("✓", "(✓)"),
    "ExLlamav2_HF": ("✓", "✓"),
    "ExLlamav2": ("✓", "✓"),
    "AutoGPTQ": ("✓", ""),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-lora-matrix", action="store_true", help="write README's table of LoRAs by this run")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Matrix(config), "lora-matrix")


class Matrix:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[tuple[str, str], list[bool]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        outcome = yield
        report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
        if report.when == "call" or not report.passed:
            for cell in _cells(item):
                self._seen.setdefault(cell, []).append(report.passed)

    @property
    def _whole(self) -> bool:
        """Whether this run was to have all the tests that the table is made of."""
        option = self._config.option
        everything = self._config.args == self._config.getini("testpaths")
        some = option.keyword or option.deselect or option.maxfail or option.lf
        return everything and not some and option.markexpr in ("", "lora")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if not self._whole or not self._seen or exitstatus not in (0, 1):
            return
        text = README.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        due = before + BEGIN + self._table() + END + rest.partition(END)[2]
        if due == text:
            return
        if self._config.option.write_lora_matrix:
            README.write_text(due, encoding="utf-8")
            return
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nREADME's table of LoRAs is not what the tests show (./test.sh -m lora --write-lora-matrix):")
        print("\n".join(difflib.unified_diff(text.splitlines(), due.splitlines(), "README.md", "by the tests", n=0)))

    def _table(self) -> str:
        titles = ["loader 加载器", *SHOWN.values(), "original: one 原版：一个", "original: two or more 原版：多个"]
        lines = [titles, ["---"] * len(titles)]
        for name in LOADERS:
            shown = ["✓" if all(seen := self._seen.get((name, what), [])) and seen else "" for what in SHOWN]
            lines.append([name, *shown, *ORIGINAL.get(name, ("", ""))])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """The loaders and abilities that `item` shows something of."""
    given = getattr(item, "callspec", None)
    loader = given.params.get("loader") if given else None
    for marker in item.iter_markers("lora"):
        name = marker.kwargs.get("loader") or getattr(loader, "name", loader)
        assert name in LOADERS and set(marker.args) <= set(SHOWN), f"{item.nodeid}: lora{marker.args} of {name!r}"
        yield from ((name, what) for what in marker.args)
