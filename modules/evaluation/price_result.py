"""The price of an option: what changes from one value to the other, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modules.core.errors import Words
from modules.core.events import Json
from modules.evaluation.statistics import Interval, mean_interval

PERPLEXITY = "perplexity"
MEASURED = ("memory", "gpu_memory", "load_seconds", "prompt_speed", "decode_speed")
"""What every load is measured by: bytes of main memory and of GPUs, seconds, and tokens a second."""
METRICS = (PERPLEXITY, *MEASURED)
MAX_FOREIGN_LOAD = 0.1
"""Share of the processors that others may use before the result carries a warning."""


@dataclass(frozen=True)
class Measurement:
    """One load: the most memory in bytes, seconds of loading, tokens a second. 0 is for what could not be measured.

    `foreign_load` is the share of the processors that other programs used meanwhile.
    """

    memory: float = 0.0
    gpu_memory: float = 0.0
    load_seconds: float = 0.0
    prompt_speed: float = 0.0
    decode_speed: float = 0.0
    foreign_load: float = 0.0


Pair = tuple[Measurement, Measurement]
"""Measurements of both values, the first one first, in whichever order they were made."""


@dataclass(frozen=True)
class Effect:
    """One figure with either value, and the change as the logarithm of b / a, with its 95 % interval.

    The figures are geometric means. Without pairing, as of perplexities of different tokens, the change is NaN.
    """

    metric: str
    a: float
    b: float
    change: Interval

    @property
    def is_seen(self) -> bool:
        """Whether the interval leaves out "no change"."""
        return math.isfinite(self.change.low) and not self.change.includes_zero

    @property
    def percent(self) -> Interval:
        """The change in percent of a."""
        change = self.change
        return Interval(_percent(change.mean), _percent(change.low), _percent(change.high))


@dataclass(frozen=True)
class PriceResult:
    """A price. `kl` is the Kullback-Leibler divergence of b from a in nats, `same_top` the share of tokens at which
    both find the same token the most likely. They are None if the distributions cannot be compared; `quality_problem`
    is the reason.

    `machine` and `packages` tell on what it was measured. `options_hash` is a fingerprint of the loaders and of all
    options, `model_hash` one of the models' files.
    """

    id: str
    key: str
    a: str
    b: str
    model: str
    loader: str
    effects: tuple[Effect, ...]
    kl: Interval | None = None
    same_top: Interval | None = None
    quality_problem: Words = field(default_factory=dict)
    text: str = ""
    tokens: int = 0
    pairs: int = 0
    foreign_load: float = 0.0
    date: str = ""
    seconds: float = 0.0
    machine: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    options_hash: str = ""
    model_hash: str = ""

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs used so much of the processors that speeds are doubtful."""
        return self.foreign_load > MAX_FOREIGN_LOAD

    def effect(self, metric: str) -> Effect | None:
        """Return one figure; None if it was not measured."""
        return next((effect for effect in self.effects if effect.metric == metric), None)

    def to_json(self) -> Json:
        """Return the price as a JSON object, in which numbers that are not finite are null."""
        return {
            "id": self.id,
            "key": self.key,
            "a": self.a,
            "b": self.b,
            "model": self.model,
            "loader": self.loader,
            "effects": {effect.metric: _effect_json(effect) for effect in self.effects},
            "kl": _interval_json(self.kl),
            "same_top": _interval_json(self.same_top),
            "quality_problem": dict(self.quality_problem),
            "text": self.text,
            "tokens": self.tokens,
            "pairs": self.pairs,
            "foreign_load": round(self.foreign_load, 4),
            "disturbed": self.is_disturbed,
            "date": self.date,
            "seconds": round(self.seconds, 2),
            "machine": dict(self.machine),
            "packages": dict(self.packages),
            "options_hash": self.options_hash,
            "model_hash": self.model_hash,
        }

    @staticmethod
    def from_json(body: Mapping[str, Json]) -> PriceResult:
        """Return the price of a JSON object. Raises KeyError, TypeError, ValueError or AttributeError for any other."""
        texts = {key: str(body[key]) for key in _TEXTS}
        effects = (_effect(metric, effect) for metric, effect in body["effects"].items() if metric in METRICS)
        return PriceResult(
            **texts,
            effects=tuple(effects),
            kl=_interval(body["kl"]),
            same_top=_interval(body["same_top"]),
            tokens=int(body["tokens"]),
            pairs=int(body["pairs"]),
            foreign_load=float(body["foreign_load"]),
            seconds=float(body["seconds"]),
            quality_problem=_strings(body["quality_problem"]),
            machine=_strings(body["machine"]),
            packages=_strings(body["packages"]),
        )


_TEXTS = ("id", "key", "a", "b", "model", "loader", "text", "date", "options_hash", "model_hash")


def effects_of(pairs: Sequence[Pair]) -> tuple[Effect, ...]:
    """Return what the pairs of loads tell, without figures that one of them lacks."""
    found = []
    for metric in MEASURED:
        values = [(float(getattr(a, metric)), float(getattr(b, metric))) for a, b in pairs]
        if values and all(a > 0 and b > 0 for a, b in values):
            ratios = mean_interval([math.log(b / a) for a, b in values])
            first, second = (_geometric_mean(side) for side in zip(*values, strict=True))
            found.append(Effect(metric, first, second, ratios))
    return tuple(found)


def _percent(log_ratio: float) -> float:
    try:
        return 100 * math.expm1(log_ratio)
    except OverflowError:  # the end of an interval of two pairs that have little in common
        return math.inf


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _effect_json(effect: Effect) -> Json:
    return {
        "a": _finite(effect.a),
        "b": _finite(effect.b),
        "log_ratio": _interval_json(effect.change),
        "percent": _interval_json(effect.percent),
        "seen": effect.is_seen,
    }


def _effect(metric: str, body: Mapping[str, Json]) -> Effect:
    change = _interval(body["log_ratio"]) or Interval(math.nan, math.nan, math.nan)
    return Effect(metric, _number(body["a"]), _number(body["b"]), change)


def _interval_json(interval: Interval | None) -> Json:
    if interval is None or math.isnan(interval.mean):
        return None
    return {"mean": _finite(interval.mean), "low": _finite(interval.low), "high": _finite(interval.high)}


def _interval(body: Mapping[str, Json] | None) -> Interval | None:
    return None if body is None else Interval(*(_number(body[end]) for end in ("mean", "low", "high")))


def _number(value: Json) -> float:
    return math.nan if value is None else float(value)


def _strings(body: Mapping[str, Json]) -> dict[str, str]:
    return {str(key): str(value) for key, value in body.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
