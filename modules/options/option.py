"""`Option`: one knob, said once. Its flag, widget, YAML key, validation and documentation follow from it."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from modules.core.errors import CommandLineError, OptionError, UnknownOption, Words, both

Value = bool | int | float | str

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_UNITS = {"": 1 << 30, "gib": 1 << 30, "mib": 1 << 20, "gb": 10**9, "mb": 10**6}


@dataclass(frozen=True)
class Option:
    """One knob; its type is the type of its default.

    `flag` is the original's spelling, without the leading dashes. `pattern` must match the whole of a text value
    unless that is empty; `example` shows one that does. `many` lets the flag take several words, which
    become one text with `joint` between them.
    `multiline` texts may have several lines.
    A number with a `step` is shown as a slider from `minimum` to `maximum`, any other in a plain box.
    """

    key: str
    flag: str
    default: Value
    label: Words
    help: Words
    choices: tuple[Value, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    pattern: str = ""
    example: str = ""
    many: bool = False
    joint: str = " "
    multiline: bool = False
    group: str = "common"

    def parse(self, raw: object) -> Value:
        """`raw` (from a flag, a widget, YAML or JSON) as a value of this option; OptionError if it is none."""
        value = self._typed(raw)
        if self.choices and value not in self.choices:
            raise self._refused(raw)
        if not isinstance(value, (bool, str)) and not self._in_range(value):
            raise self._refused(raw)
        if isinstance(value, str) and value and self.pattern and not re.fullmatch(self.pattern, value):
            raise self._refused(raw)
        return value

    def _typed(self, raw: object) -> Value:
        if isinstance(self.default, bool):
            return self._as_bool(raw)
        if isinstance(self.default, str):
            if raw is None or (isinstance(raw, (str, int, float)) and not isinstance(raw, bool)):
                return "" if raw is None else str(raw).strip()
            raise self._refused(raw)
        return self._as_number(raw)

    def _as_bool(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        word = str(raw).strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise self._refused(raw)

    def _as_number(self, raw: object) -> int | float:
        if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
            raise self._refused(raw)
        try:
            number = float(raw)
            if isinstance(self.default, float):
                return number
            # int() of the text itself: a float holds no whole number beyond 2**53.
            exact = isinstance(raw, int) or (isinstance(raw, str) and not set(raw) & set(".eE"))
            return int(raw) if exact else _whole(number)
        except (ValueError, OverflowError):
            raise self._refused(raw) from None

    def _in_range(self, value: float) -> bool:
        # Written so that NaN is out of range.
        low = self.minimum is None or value >= self.minimum
        high = self.maximum is None or value <= self.maximum
        return low and high and value == value and abs(value) != float("inf")

    def _refused(self, raw: object) -> OptionError:
        return OptionError(self.key, raw if isinstance(raw, (str, int, float)) else str(raw), self.expected())

    def expected(self) -> Words:
        """What a value has to be, as the end of a sentence."""
        if self.choices:
            listed = ", ".join(str(each) for each in self.choices)
            return {"en": f"one of {listed}", "zh": f"{listed} 之一"}
        if isinstance(self.default, bool):
            return {"en": "true or false", "zh": " true 或 false"}
        if isinstance(self.default, str):
            return {"en": f"something like {self.example!r}", "zh": f"形如 {self.example!r} 的值"}
        kind = ("a number", "数字") if isinstance(self.default, float) else ("a whole number", "整数")
        low, high = _bound(self.minimum), _bound(self.maximum)
        if low and high:
            return {"en": f"{kind[0]} from {low} to {high}", "zh": f" {low} 到 {high} 之间的{kind[1]}"}
        if low:
            return {"en": f"{kind[0]} not below {low}", "zh": f"不小于 {low} 的{kind[1]}"}
        return {"en": kind[0], "zh": kind[1]}


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(number)
    return int(number)


def _bound(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.15g}"


def size_in_bytes(text: str) -> int:
    """Of a size of memory as options have it: "9.5GiB", "8000MiB" or "10", which counts GiB."""
    number, unit = re.fullmatch(r"([\d.]+) *([A-Za-z]*)", text.strip()).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNITS[unit.lower()])


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` most like `name`, letter case and `-`/`_` ignored; "" if none is similar."""
    plain = {_plain(each): each for each in known}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
    return plain[found[0]] if found else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def parse_all(table: Mapping[str, Option], raw: Mapping[str, object]) -> dict[str, Value]:
    """Every entry of `raw` parsed by its option; UnknownOption for a key that `table` lacks."""
    parsed = {}
    for key, value in raw.items():
        if key not in table:
            raise UnknownOption(key, nearest(key, table))
        parsed[key] = table[key].parse(value)
    return parsed


class FlagParser(argparse.ArgumentParser):
    """A command line of Options: `-` and `_` alike, only what was typed is returned, and errors are ours."""

    def __init__(self, options: Iterable[Option], description: str) -> None:
        super().__init__(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self.known = {option.key: option for option in options}
        self._flags = {_dashed(option.flag): option.flag for option in self.known.values()}
        for option in self.known.values():
            self._add(option)

    def _add(self, option: Option) -> None:
        text = f"{option.help['zh']} {option.help['en']}".replace("%", "%%")
        if isinstance(option.default, bool):  # a bare flag ticks the box; --mlock=false unticks what was saved
            shape = {"nargs": "?", "const": True, "metavar": "true|false"}
        else:
            shape = {"nargs": "+" if option.many else None, "metavar": option.key.upper()}
        self.add_argument(f"--{option.flag}", dest=option.key, help=text, **shape)  # type: ignore[arg-type]

    def typed(self, words: Iterable[str]) -> dict[str, Value]:
        """The options that were typed in `words`, parsed. OptionError, UnknownOption or CommandLineError if wrong."""
        found, unknown = self.parse_known_args([self._canonical(word) for word in words])
        if unknown:
            name = unknown[0].split("=")[0]
            guess = nearest(_dashed(name.lstrip("-")), self._flags)
            raise UnknownOption(name, f"--{self._flags[guess]}" if guess else "")
        return {key: self.known[key].parse(self._joined(key, raw)) for key, raw in vars(found).items()}

    def _joined(self, key: str, raw: object) -> object:
        return self.known[key].joint.join(raw) if isinstance(raw, list) else raw

    def _canonical(self, word: str) -> str:
        name, equals, value = word.partition("=")
        flag = self._flags.get(_dashed(name[2:])) if name.startswith("--") else None
        return f"--{flag}{equals}{value}" if flag else word

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(_in_words(message))


# All that argparse says of flags that take one word, some, or perhaps one; of --help, that it takes none.
_REFUSALS: Mapping[str, Words] = {
    "expected one argument": {"en": "{flag} needs a value.", "zh": "{flag} 缺少取值。"},
    "expected at least one argument": {"en": "{flag} needs at least one value.", "zh": "{flag} 至少需要一个取值。"},
    "ignored explicit argument": {"en": "{flag} takes no value.", "zh": "{flag} 不带取值。"},
}


def _in_words(message: str) -> Words:
    """argparse's `message`, such as "argument --model: expected one argument", in both languages."""
    flag, _, refusal = message.removeprefix("argument ").partition(": ")
    words = next((words for start, words in _REFUSALS.items() if refusal.startswith(start)), None)
    return {language: each.format(flag=flag) for language, each in words.items()} if words else both(message)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
