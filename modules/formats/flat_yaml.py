"""Read a YAML file of one level: texts by key. Nothing of it is constructed, so that no content can do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from modules.system.format_errors import FormatError

MAX_BYTES = 64_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_flat(path: Path) -> dict[str, str]:
    """Return the values of the file by key; null is "". Raises FormatError or OSError.

    The error names the line and never quotes it, because the file may hold secrets.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(f"it is larger than {MAX_BYTES:,} bytes.", f"文件超过 {MAX_BYTES:,} 字节。")
    try:
        return _pairs(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise FormatError("it is not UTF-8.", "不是 UTF-8 编码。") from None
    except yaml.MarkedYAMLError as error:
        raise _not_flat(error.problem_mark) from None
    except yaml.YAMLError:  # control characters
        raise _not_flat(None) from None


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    key: str | None = None
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.MappingStartEvent) and depth == 0:
            depth = 1
        elif isinstance(event, yaml.MappingEndEvent):
            return pairs
        elif isinstance(event, yaml.ScalarEvent) and depth == 1:
            if key is None:
                key = event.value
            elif key in pairs:
                raise _not_flat(event.start_mark)
            else:
                pairs[key] = "" if event.implicit[0] and event.value in ("~", "null") else event.value.strip()
                key = None
        elif isinstance(event, yaml.CollectionStartEvent | yaml.AliasEvent | yaml.ScalarEvent):
            if isinstance(event, yaml.ScalarEvent) and not event.value:  # an empty document
                return {}
            raise _not_flat(event.start_mark)
    return pairs


def _not_flat(mark: Any) -> FormatError:
    line = mark.line + 1 if mark is not None else 1
    return FormatError(
        f"line {line}: expected lines of `key: value`, each key once.",
        f"第 {line} 行：应为“键: 值”形式的行，每个键只出现一次。",
    )
