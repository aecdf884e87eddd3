"""Errors of measuring the price of an option.

EvaluationError
├── NoPrice               an option or value of which there is no price, and why
├── ResidentsInTheWay     models that must be unloaded first
├── PriceNotFound         a measurement that does not exist (any more)
└── TooManyPrices         the queue is full
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import Words
from modules.evaluation.errors import EvaluationError


@dataclass(eq=False)
class NoPrice(EvaluationError):
    """`why` is a whole sentence."""

    status = 400
    template = {"en": "The price of {key} cannot be measured. {why}", "zh": "无法测量 {key} 的代价。{why}"}
    key: str
    why: Words


@dataclass(eq=False)
class ResidentsInTheWay(EvaluationError):
    status = 409
    template = {
        "en": "Not started: {models} in memory would distort the measurement. Unload them first, or agree that they "
        "are unloaded.",
        "zh": "未开始：内存中的 {models} 会影响测量。请先卸载，或同意将其卸载。",
    }
    models: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return {"models": ("、" if language == "zh" else ", ").join(self.models)}


@dataclass(eq=False)
class PriceNotFound(EvaluationError):
    status = 404
    template = {
        "en": "The measurement {id!r} does not exist (any more). The results of completed ones are kept.",
        "zh": "测量“{id}”不存在或已被清除。已完成的结果会保留。",
    }
    id: str


@dataclass(eq=False)
class TooManyPrices(EvaluationError):
    status = 429
    template = {
        "en": "{count} measurements are queued already. Wait until one has ended, or stop one.",
        "zh": "已有 {count} 个测量在排队。请等待其中一个结束，或停止一个。",
    }
    count: int
