"""Data formats: which text a row of data becomes, by the fields that it has.

A format is a JSON file that maps sets of fields, joined by commas, to texts in which `%field%` stands for the value:
{"question,answer": "Q: %question%\\nA: %answer%"}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.config.named_files import is_valid_name
from modules.core.errors import Words
from modules.engines.training.samples import Segments, joined
from modules.options.option import nearest
from modules.training.dataset.errors import FormatNotFound, InvalidFormat
from modules.training.dataset.values import BadValue, field_texts

ANSWERS = ("output", "completion", "response", "answer")
"""Fields whose values are what a model answers."""

_MAX_BYTES = 1_000_000
_ORIGINAL_SUFFIX = "-format"
"""The end of the names of formats that the original ships."""
_PLACEHOLDER = re.compile("%([^%\n]{1,80})%")


@dataclass(frozen=True)
class DataFormat:
    """A format: the text for each set of fields."""

    name: str
    texts: Mapping[frozenset[str], str]

    def fields_for(self, present: frozenset[str]) -> frozenset[str] | None:
        """Return the set of fields by which a row with these fields is written, None if there is none.

        Other fields of the row are ignored, unless the format knows them: they would be lost without notice.
        """
        if present in self.texts:
            return present
        known = frozenset().union(*self.texts)
        return present & known if present & known in self.texts else None

    def segments(self, fields: Mapping[str, Any]) -> Segments:
        """Return the text of a row. Its answer, and what the format writes behind it, is trained; or else everything.

        Raises BadValue.
        """
        values = field_texts(fields, frozenset().union(*self.texts))
        chosen = self.fields_for(frozenset(values))
        if chosen is None:
            found, expected = ", ".join(sorted(values)), " / ".join(",".join(sorted(keys)) for keys in self.texts)
            raise BadValue(
                f"its fields ({found or 'none'}) do not fit the data format {self.name}, which takes {expected}",
                f"字段（{found or '无'}）与数据格式 {self.name} 不符，后者要求 {expected}",
            )
        return _filled(self.texts[chosen], values)


def _filled(text: str, values: Mapping[str, str]) -> Segments:
    """Replace the placeholders once, so that `%field%` within a value stays as it is."""
    parts = _PLACEHOLDER.split(text)  # text, name, text, name, …, text
    names = parts[1::2]
    answers = [index for index, name in enumerate(names) if name in ANSWERS and name in values]
    first_trained = 2 * answers[-1] + 1 if answers else 0
    pieces = []
    for index, part in enumerate(parts):
        if index % 2:
            part = values.get(part, f"%{part}%")
        pieces.append((part, index >= first_trained))
    return joined(pieces)


class DataFormats:
    """The formats in `folder`, which need not exist; a name is that of a file without `.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        stems = (path.stem for path in self.folder.glob("*.json") if path.is_file())
        return sorted(filter(is_valid_name, stems), key=str.casefold)

    def read(self, name: str) -> DataFormat:
        """Return a format. Raises FormatNotFound or InvalidFormat."""
        names = self.names()
        if name not in names:
            name = name.removesuffix(_ORIGINAL_SUFFIX)
        if name not in names:
            raise FormatNotFound(name[:80], nearest(name, names))
        try:
            content = (self.folder / f"{name}.json").read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InvalidFormat(name, {"en": f"the disk reports “{reason}”", "zh": f"磁盘报告“{reason}”"}) from None
        return DataFormat(name, _parsed(name, content))

    def matching(self, present: frozenset[str]) -> DataFormat | None:
        """Return the first format that has exactly this set of fields; files that are no formats are passed over."""
        for name in self.names():
            try:
                data_format = self.read(name)
            except (FormatNotFound, InvalidFormat):
                continue
            if present in data_format.texts:
                return data_format
        return None


def _parsed(name: str, content: bytes) -> dict[frozenset[str], str]:
    if len(content) > _MAX_BYTES:
        raise InvalidFormat(name, {"en": f"it has more than {_MAX_BYTES:,} bytes", "zh": f"超过 {_MAX_BYTES:,} 字节"})
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidFormat(
            name, {"en": f"it is not JSON in UTF-8{line}", "zh": f"不是 UTF-8 编码的 JSON{line}"}
        ) from None
    if not isinstance(entries, dict) or not entries or not all(isinstance(text, str) for text in entries.values()):
        raise InvalidFormat(name, _SHAPE)
    texts = {frozenset(key.strip() for key in keys.split(",")): text for keys, text in entries.items()}
    for keys, text in texts.items():
        missing = sorted(key for key in keys if f"%{key}%" not in text)
        if missing:
            en = f"the text for {','.join(sorted(keys))} does not have %{missing[0]}%"
            raise InvalidFormat(name, {"en": en, "zh": f"{','.join(sorted(keys))} 的文本缺少 %{missing[0]}%"})
    return texts


_SHAPE: Words = {
    "en": 'expected an object such as {"question,answer": "Q: %question%\\nA: %answer%"}',
    "zh": '应为形如 {"question,answer": "问：%question%\\n答：%answer%"} 的对象',
}
