"""Quote names and values in sentences, as each language does."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any


def in_quotes(value: object, language: str = "zh") -> str:
    """Return a value in quotation marks, with what cannot be printed escaped: in English as Python writes it."""
    if language != "zh":
        return repr(value)
    text = value if isinstance(value, str) else repr(value)
    return f"“{''.join(char if char.isprintable() else _escaped(char) for char in text)}”"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def fill(template: Mapping[str, str], language: str, facts: Mapping[str, object]) -> str:
    """Return `template` in a language, with `facts` in its placeholders. Those with `!r` are put in quotation marks."""
    return _Sentences(language).vformat(template[language], (), facts)


class _Sentences(string.Formatter):
    def __init__(self, language: str) -> None:
        self._language = language

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return in_quotes(value, self._language) if conversion == "r" else super().convert_field(value, conversion)
