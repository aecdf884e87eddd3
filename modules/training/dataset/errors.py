"""Errors of training data.

DatasetNotFound · FormatNotFound   a name that does not exist (UnknownName)
DatasetError
├── UnreadableDataset     a file that cannot be read as data: which one, and why
├── InvalidFormat         a data format that is not one
├── BadRows               rows that cannot be used, the first of them with their reasons
├── NothingToTrain        no row is left
└── PreviewFailed         the process that tokenizes data for a preview ended
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import UnknownName, WebUIError, Words

MAX_SHOWN = 5
"""Bad rows whose reasons are in an error."""


class DatasetNotFound(UnknownName):
    status = 404
    template = {
        "en": "There is no dataset {name!r} in training/datasets.",
        "zh": "training/datasets 中没有名为{name!r}的数据集。",
    }


class FormatNotFound(UnknownName):
    status = 404
    template = {
        "en": "There is no data format {name!r} in training/formats.",
        "zh": "training/formats 中没有名为{name!r}的数据格式。",
    }


class DatasetError(WebUIError):
    """Base of the errors of training data."""


@dataclass(eq=False)
class UnreadableDataset(DatasetError):
    """A file that cannot be read as data. `problem` is the end of a sentence."""

    status = 422
    template = {"en": "{file} cannot be used as data: {problem}.", "zh": "{file} 无法用作数据：{problem}。"}
    file: str
    problem: Words


@dataclass(eq=False)
class InvalidFormat(DatasetError):
    status = 422
    template = {
        "en": "The data format {file} cannot be used: {problem}.",
        "zh": "数据格式 {file} 无法使用：{problem}。",
    }
    file: str
    problem: Words


@dataclass(eq=False)
class BadRows(DatasetError):
    """Rows that cannot be used. `rows` are the first of them: the number of each, and the problem."""

    status = 422
    template = {
        "en": "{count} of {total} rows of {file} cannot be used: {listed}. Correct them, or select “Skip bad rows”.",
        "zh": "{file} 的 {total} 行中有 {count} 行无法使用：{listed}。请更正，或勾选“跳过有问题的行”。",
    }
    file: str
    count: int
    total: int
    rows: Sequence[tuple[int, Words]]

    def shown(self, language: str) -> dict[str, object]:
        row, separator, more = {"en": ("row {}: {}", "; ", "; …"), "zh": ("第 {} 行：{}", "；", "；……")}[language]
        listed = separator.join(row.format(number, problem[language]) for number, problem in self.rows[:MAX_SHOWN])
        return super().shown(language) | {"listed": listed + (more if self.count > len(self.rows[:MAX_SHOWN]) else "")}


@dataclass(eq=False)
class NothingToTrain(DatasetError):
    """Data of which no row is left. `problem` is the end of a sentence."""

    status = 422
    template = {"en": "{file} has nothing to train: {problem}.", "zh": "{file} 没有可训练的内容：{problem}。"}
    file: str
    problem: Words


@dataclass(eq=False)
class PreviewFailed(DatasetError):
    """The end of the process that tokenizes data. `how` is its signal or exit status, `words` the end of its stderr."""

    status = 500
    template = {
        "en": "The data could not be previewed: the process that tokenizes it ended ({how}). Try less data.\n{words}",
        "zh": "无法预览数据：分词进程意外结束（{how}）。请减少数据后重试。\n{words}",
    }
    how: str
    words: str = ""
