"""`Option`: one setting. Its flag, widget, YAML key, validation and documentation are derived from it."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from modules.core.errors import CommandLineError, OptionError, UnknownOption, Words, both
from modules.core.quotes import in_quotes

Value = bool | int | float | str

MAX_COMPARED = 100
"""Longest beginning of an unknown name that is compared with known ones: the time grows with its square."""

MAX_SHOWN = 60
"""Characters of a text in an error."""

_USER = re.compile(r"^(?P<scheme>\w+://|(?=[^/:@\s]+:)).*@", re.DOTALL)
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_UNITS = {"": 1 << 30, "gib": 1 << 30, "mib": 1 << 20, "gb": 10**9, "mb": 10**6}


@dataclass(frozen=True)
class Option:
    """One setting. The type of its values is the type of its default.

    Attributes:
        key: Name in YAML files, JSON and code.
        flag: Command-line flag without the leading dashes, in the spelling of the original web UI.
        choices: Allowed values; empty for any.
        minimum, maximum: Inclusive range of a number.
        least: Smallest number other than 0, where 0 means "the model's own".
        step: Shows a number as a slider from `minimum` to `maximum`; None shows an input box.
        pattern: Regular expression that must match all of a non-empty text.
        example: A text that matches, shown as a placeholder.
        many: Whether the flag takes several values, which are joined by `joint` into one text.
        multiline: Whether a text may have several lines.
        needs_value: Whether an empty text is refused on the command line, as an unset variable of a shell gives.
        excess: Returns what is expected of a non-empty text that exceeds a limit, or None.
        group: Section of the form.
        set_by: "anyone" who may load models; "owner": from the page or the API only where `App.refuse_strangers` allows
            it, because the option names machines; "files": by flags and files only, because it could spend secrets or
            run programs. The form has no widget for the last kind.
    """

    key: str
    flag: str
    default: Value
    label: Words
    help: Words
    choices: tuple[Value, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    least: int = 0
    step: float | None = None
    pattern: str = ""
    example: str = ""
    many: bool = False
    joint: str = " "
    multiline: bool = False
    needs_value: bool = False
    excess: Callable[[str], Words | None] | None = None
    group: str = "common"
    set_by: Literal["anyone", "owner", "files"] = "anyone"

    def parse(self, raw: object) -> Value:
        """Convert a raw value from a flag, a widget, YAML or JSON. Raises OptionError if it is invalid."""
        value = self._convert(raw)
        if self.choices and value not in self.choices:
            raise self._error(raw)
        if not isinstance(value, (bool, str)) and not self._in_range(value):
            raise self._error(raw)
        if isinstance(value, str) and value and self.pattern and not re.fullmatch(self.pattern, value):
            raise self._error(raw)
        if isinstance(value, str) and value and self.excess is not None and (expected := self.excess(value)):
            raise OptionError(self.key, shortened(value), expected)
        return value

    def _convert(self, raw: object) -> Value:
        if isinstance(self.default, bool):
            return self._parse_bool(raw)
        if isinstance(self.default, str):
            if raw is None or (isinstance(raw, (str, int, float)) and not isinstance(raw, bool)):
                return "" if raw is None else str(raw).strip()
            raise self._error(raw)
        return self._parse_number(raw)

    def _parse_bool(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        word = str(raw).strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise self._error(raw)

    def _parse_number(self, raw: object) -> int | float:
        if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
            raise self._error(raw)
        try:
            number = float(raw)
            if isinstance(self.default, float):
                return number
            # int() of the text itself, because a float is not exact beyond 2**53.
            exact = isinstance(raw, int) or (isinstance(raw, str) and not set(raw) & set(".eE"))
            return int(raw) if exact else _integer(number)
        except (ValueError, OverflowError):
            raise self._error(raw) from None

    def _in_range(self, value: float) -> bool:
        # `value == value` is False for NaN.
        low = self.minimum is None or value >= self.minimum
        low = low and (value == 0 or value >= self.least or not self.least)
        high = self.maximum is None or value <= self.maximum
        return low and high and value == value and abs(value) != float("inf")

    def _error(self, raw: object) -> OptionError:
        shown = raw if isinstance(raw, (int, float)) else _without_password(str(raw))
        return OptionError(self.key, shown, self.expected())

    def expected(self) -> Words:
        """Describe the valid values, as the end of a sentence."""
        if self.choices:
            listed = ", ".join(map(str, self.choices))
            return {"en": f"one of {listed}", "zh": f"{listed} 之一"}
        if isinstance(self.default, bool):
            return {"en": "true or false", "zh": " true 或 false"}
        if isinstance(self.default, str):
            return {"en": f"a text such as {self.example!r}", "zh": f"形如{in_quotes(self.example)}的值"}
        en, zh = ("a number", "数字") if isinstance(self.default, float) else ("a whole number", "整数")
        low, high = _format_limit(self.least or self.minimum), _format_limit(self.maximum)
        if self.least:
            return {"en": f"0, or {en} from {low} to {high}", "zh": f" 0，或 {low} 到 {high} 之间的{zh}"}
        if low and high:
            return {"en": f"{en} from {low} to {high}", "zh": f" {low} 到 {high} 之间的{zh}"}
        if low:
            return {"en": f"{en} of at least {low}", "zh": f"不小于 {low} 的{zh}"}
        return {"en": en, "zh": zh}


def _without_password(text: str) -> str:
    """Return a text without what may be the user and the password of an address in it."""
    return _USER.sub(r"\g<scheme>***@", text)


def shortened(text: str) -> str:
    """Return the beginning of a text, as errors quote it."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _integer(number: float) -> int:
    if number != int(number):
        raise ValueError(number)
    return int(number)


def _format_limit(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.15g}"


def size_in_bytes(text: str) -> int:
    """Convert a memory size such as "9.5GiB", "8000MiB" or "10" (GiB) to bytes."""
    number, unit = re.fullmatch(r"([\d.]+) *([A-Za-z]*)", text.strip()).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNITS[unit.lower()])


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return the most similar one of `names`, ignoring case and `-`/`_`; "" if none is similar.

    `cutoff` is the similarity needed, from 0 to 1, as `difflib` measures it.
    """
    by_folded = {_folded(candidate): candidate for candidate in names}
    matches = difflib.get_close_matches(_folded(name)[:MAX_COMPARED], by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def parse_all(table: Mapping[str, Option], raw: Mapping[str, object]) -> dict[str, Value]:
    """Parse raw values by option key. Raises OptionError, or UnknownOption for a key that is not in `table`."""
    parsed = {}
    for key, value in raw.items():
        if key not in table:
            raise UnknownOption(key, nearest(key, table))
        parsed[key] = table[key].parse(value)
    return parsed


class FlagParser(argparse.ArgumentParser):
    """Command line of Options. Treats `-` and `_` alike, returns only the flags given, and raises WebUIErrors."""

    def __init__(self, options: Iterable[Option], description: str) -> None:
        super().__init__(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self.options = {option.key: option for option in options}
        self._flags = {_dashed(option.flag): option.flag for option in self.options.values()}
        for option in self.options.values():
            self._add(option)

    def _add(self, option: Option) -> None:
        text = f"{option.help['zh']} {option.help['en']}".replace("%", "%%")
        if isinstance(option.default, bool):  # --mlock alone means true; --mlock=false overrides a saved true
            settings = {"nargs": "?", "const": True, "metavar": "true|false"}
        else:
            settings = {"nargs": "+" if option.many else None, "metavar": option.key.upper()}
        self.add_argument(f"--{option.flag}", dest=option.key, help=text, **settings)  # type: ignore[arg-type]

    def parse(self, arguments: Iterable[str]) -> dict[str, Value]:
        """Return the values of the options given. Raises OptionError, UnknownOption or CommandLineError."""
        namespace, unknown = self.parse_known_args([self._canonical(argument) for argument in arguments])
        if unknown:
            name = unknown[0].split("=")[0]
            guess = nearest(_dashed(name.lstrip("-")), self._flags)
            raise UnknownOption(name, f"--{self._flags[guess]}" if guess else "")
        values = {key: self.options[key].parse(self._joined(key, raw)) for key, raw in vars(namespace).items()}
        for key, value in values.items():
            if self.options[key].needs_value and value == "":
                self.error(f"argument --{self.options[key].flag}: expected one argument")
        return values

    def _joined(self, key: str, raw: object) -> object:
        return self.options[key].joint.join(raw) if isinstance(raw, list) else raw

    def _canonical(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        flag = self._flags.get(_dashed(name[2:])) if name.startswith("--") else None
        return f"--{flag}{equals}{value}" if flag else argument

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(_translate(message))


# All messages of argparse for flags with one, several or an optional value, and for --help, which takes none.
_ARGPARSE_MESSAGES: Mapping[str, Words] = {
    "expected one argument": {"en": "{flag} needs a value.", "zh": "{flag} 缺少取值。"},
    "expected at least one argument": {"en": "{flag} needs at least one value.", "zh": "{flag} 至少需要一个取值。"},
    "ignored explicit argument": {"en": "{flag} takes no value.", "zh": "{flag} 不带取值。"},
}


def _translate(message: str) -> Words:
    """Translate a message of argparse such as "argument --model: expected one argument"."""
    flag, _, problem = message.removeprefix("argument ").partition(": ")
    words = next((words for start, words in _ARGPARSE_MESSAGES.items() if problem.startswith(start)), None)
    return {language: text.format(flag=flag) for language, text in words.items()} if words else both(message)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
