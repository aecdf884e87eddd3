"""Read how long a model stays in memory after an answer: Ollama's `keep_alive`, and LM Studio's `ttl`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from modules.api.request_body import Expected

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_MAX_LENGTH = 32
_LONGEST = 1e12


def seconds(raw: Any) -> float:
    """Return the seconds that a number or a text such as "5m" or "1h30m" means; infinity for negative ones.

    Raises ValueError for anything else.
    """
    if isinstance(raw, str) and len(raw) <= _MAX_LENGTH:
        text = raw.strip().lower()
        number = _number(text.removeprefix("-"))
        raw = -number if text.startswith("-") else number
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or raw != raw:
        raise ValueError("no duration")
    return math.inf if raw < 0 else float(min(raw, _LONGEST))


def _number(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("no duration")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


KeepAlive = Annotated[
    float | None,
    BeforeValidator(seconds),
    Expected('seconds, or a text such as "5m"; -1 for ever', '秒数或形如 "5m" 的文本，-1 表示一直保留'),
]
