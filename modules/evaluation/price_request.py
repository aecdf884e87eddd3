"""Requests for a price: two values of one load option, two models, or two loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.core.errors import OptionError, UnknownOption, Words
from modules.evaluation.price_errors import NoPrice
from modules.options.load import OPTIONS
from modules.options.option import Value, nearest
from modules.options.price import PAIRS

MODEL, LOADER = "model", "loader"
"""Keys that are no load options: two models, such as two quantizations, or two loaders of one model."""

_TWO_VALUES: Words = {
    "en": "Give two values, separated by a comma, as in cache_8bit=false,true.",
    "zh": "请给出以逗号分隔的两个值，例如 cache_8bit=false,true。",
}


@dataclass(frozen=True)
class Variant:
    """One side of a comparison: how the model is loaded. `value` is how the side is called."""

    value: str
    model: str
    loader: str
    options: Mapping[str, object]


@dataclass(frozen=True)
class PriceRequest:
    """A comparison of the values `a` and `b` of the option `key`, in `pairs` pairs of fresh loads.

    `options` are raw values of load options that both have. `text` is the name of a text; "" takes a shipped one.
    `may_unload` agrees that the models in memory are unloaded.
    """

    key: str
    a: str
    b: str
    model: str = ""
    loader: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    pairs: int = 5
    text: str = ""
    may_unload: bool = False

    @staticmethod
    def parse(
        key: str,
        a: object,
        b: object,
        model: str = "",
        loader: str = "",
        options: Mapping[str, object] | None = None,
        pairs: object = PAIRS.default,
        text: str = "",
        may_unload: bool = False,
    ) -> PriceRequest:
        """Return a request with validated values. Raises UnknownOption, OptionError or NoPrice."""
        key = key.replace("-", "_")
        if key not in (MODEL, LOADER, *OPTIONS):
            raise UnknownOption(key, nearest(key, (MODEL, LOADER, *OPTIONS)))
        if key in OPTIONS:
            a, b = OPTIONS[key].parse(a), OPTIONS[key].parse(b)
        elif not (isinstance(a, str) and isinstance(b, str) and a and b):
            raise NoPrice(key, _TWO_VALUES)
        if key != MODEL and not model:
            expected: Words = {"en": "the name of a model", "zh": "模型名称"}
            raise OptionError(MODEL, model, expected)
        return PriceRequest(
            key, _text(a), _text(b), model, loader, dict(options or {}), int(PAIRS.parse(pairs)), text, may_unload
        )

    @staticmethod
    def split(text: str) -> tuple[str, str, str]:
        """Split "KEY=A,B" into its parts; for an option that is on or off, KEY alone is enough.

        Values with commas have as many in A as in B: the comma in the middle separates them. Raises NoPrice.
        """
        key, equals, values = text.strip().partition("=")
        key = key.strip().replace("-", "_")
        if not equals and key in OPTIONS and isinstance(OPTIONS[key].default, bool):
            return key, "false", "true"
        parts = values.split(",")
        if not equals or len(parts) % 2:
            raise NoPrice(key, _TWO_VALUES)
        middle = len(parts) // 2
        return key, ",".join(parts[:middle]).strip(), ",".join(parts[middle:]).strip()

    def variants(self) -> tuple[Variant, Variant]:
        """Return both sides."""
        return self._variant(self.a), self._variant(self.b)

    def _variant(self, value: str) -> Variant:
        if self.key == MODEL:
            return Variant(value, value, self.loader, self.options)
        if self.key == LOADER:
            return Variant(value, self.model, value, self.options)
        return Variant(value, self.model, self.loader, {**self.options, self.key: value})


def _text(value: object | Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
