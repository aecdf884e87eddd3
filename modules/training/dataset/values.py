"""Values in rows of data: what counts as missing, and texts that cannot be trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from modules.core.errors import Words
from modules.training.dataset.rows import MAX_ROW_CHARACTERS


class BadValue(Exception):
    """A row that cannot be used; `words` say why, as the end of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.words: Words = {"en": en, "zh": zh}


def is_missing(value: object) -> bool:
    """Return whether a value counts as none: null, a blank text, an empty list, or NaN as spreadsheets write it."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def field_texts(fields: Mapping[str, Any], needed: Collection[str] = ()) -> dict[str, str]:
    """Return the fields that have a text or a number, as texts.

    Others are left out, unless they are among `needed`: then BadValue is raised.
    """
    texts = {}
    for name, value in fields.items():
        if is_missing(value):
            continue
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            texts[name] = checked_text(str(value), name)
        elif name in needed:
            raise BadValue(f"{name} is not a text", f"{name} 不是文本")
    return texts


def checked_text(text: object, name: str) -> str:
    """Return a text that can be trained. Raises BadValue for other values, naming the field."""
    if not isinstance(text, str):
        raise BadValue(f"{name} is not a text", f"{name} 不是文本")
    if len(text) > MAX_ROW_CHARACTERS:
        limit = f"{MAX_ROW_CHARACTERS:,}"
        raise BadValue(f"{name} has more than {limit} characters", f"{name} 超过 {limit} 个字符")
    if "\0" in text:
        raise BadValue(f"{name} contains the character NUL, so the data is damaged", f"{name} 含 NUL 字符，数据已损坏")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadValue(
            f"{name} contains half of a character (an unpaired surrogate)", f"{name} 含半个字符（孤立的代理项）"
        )
    return text
