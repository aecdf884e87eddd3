"""Read values of untrusted JSON: whatever has the wrong type counts as missing."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from modules.core.events import Json

MAX_TITLE_CHARACTERS = 200
MAX_KEPT_CHARACTERS = 1_000_000
_MAX_KEPT_DEPTH = 40
_MAX_INTEGER_DIGITS = 18

_SURROGATE = re.compile("[\ud800-\udfff]")
_FRACTION = re.compile(r"\.([0-9]+)")
_WHITE_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")
_LATEST_SECONDS = 7_000_000_000.0
"""In the year 2191. Greater numbers are milliseconds or microseconds."""
_SILLY_TAVERN_TIMES = (
    re.compile(
        r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?) ?@ ?(?P<hour>\d\d?)h ?(?P<minute>\d\d?)m ?(?P<second>\d\d?)s"
    ),
    re.compile(
        r"(?P<name>[A-Z][a-z]{2,8}) (?P<day>\d\d?), (?P<year>\d{4}) (?P<hour>\d\d?):(?P<minute>\d\d) ?(?P<half>[ap])m"
    ),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def parse_json(text: str) -> Json:
    """Parse JSON in which numbers that are not finite count as null. Raises ValueError or RecursionError."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer)


def as_text(value: Json) -> str:
    """Return a string that can be written as UTF-8; "" for other types."""
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""


def as_line(value: Json, max_characters: int = MAX_TITLE_CHARACTERS) -> str:
    """Return a text on one line, such as a title."""
    return _WHITE_SPACE.sub(" ", as_text(value)[: 4 * max_characters]).strip()[:max_characters]


def as_mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def mappings(value: Json) -> Iterator[Mapping[str, Json]]:
    """Iterate over the objects in a list."""
    return (item for item in as_list(value) if isinstance(item, dict))


def as_key(value: Json) -> str:
    """Return the id of a message, which is a string or an integer; "" for anything else."""
    return str(value) if type(value) is int and abs(value) < 1 << 64 else as_text(value)


def as_number(value: Json) -> float:
    """Return a number; 0 for other types, booleans, and numbers that are not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e18:
        return 0.0
    return float(value) if math.isfinite(value) else 0.0


def as_seconds(value: Json) -> float:
    """Return a time in seconds since the epoch; 0 if it is unknown.

    Numbers may be seconds, milliseconds or microseconds; texts ISO 8601 or those of SillyTavern. A text without a time
    zone is local time.
    """
    if isinstance(value, str) and len(value) <= 40:
        return _plausible(_seconds_of_text(value.strip()))
    number = as_number(value)
    while number > _LATEST_SECONDS:
        number /= 1000
    return _plausible(number)


def kept(value: Json) -> Json:
    """Return a value that can be written back with its conversation; None if it is too large or too deeply nested."""
    if isinstance(value, str):
        return as_text(value) if len(value) <= MAX_KEPT_CHARACTERS else None
    if not isinstance(value, list | dict):
        return value
    text = json.dumps(value, ensure_ascii=False) if is_shallow(value) else ""
    return parse_json(as_text(text)) if 0 < len(text) <= MAX_KEPT_CHARACTERS else None


def is_shallow(value: Json) -> bool:
    """Whether a value is nested less deeply than what recursive functions can handle."""
    level = [value]
    for _ in range(_MAX_KEPT_DEPTH):
        level = [child for item in level if isinstance(item, list | dict) for child in _children(item)]
        if not level:
            return True
    return False


def _children(item: list[Json] | dict[str, Json]) -> Iterable[Json]:
    return item.values() if isinstance(item, dict) else item


def _integer(text: str) -> int | float | None:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else _finite(text)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _plausible(seconds: float) -> float:
    return seconds if 0 < seconds < _LATEST_SECONDS else 0.0


def _microseconds(fraction: re.Match[str]) -> str:
    """Return a fraction of a second with six digits, as Python 3.10 reads no others but three."""
    return f".{fraction[1][:6]:0<6}"


def _seconds_of_text(text: str) -> float:
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return as_seconds(float(text))
    for pattern in _SILLY_TAVERN_TIMES:
        if found := pattern.match(text):
            return _local_time(found.groupdict())
    try:
        return datetime.fromisoformat(_FRACTION.sub(_microseconds, text).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _local_time(parts: Mapping[str, str]) -> float:
    month = parts.get("month") or ""
    if name := parts.get("name"):
        month = str(_MONTHS.index(name[:3].lower()) + 1) if name[:3].lower() in _MONTHS else "0"
    hour = int(parts["hour"])
    if half := parts.get("half"):
        hour = hour % 12 + (12 if half == "p" else 0)
    fields = (
        int(parts["year"]),
        int(month),
        int(parts["day"]),
        hour,
        int(parts["minute"]),
        int(parts.get("second") or 0),
    )
    if not (1 <= fields[1] <= 12 and 1 <= fields[2] <= 31 and hour < 24 and fields[4] < 60 and fields[5] < 60):
        return 0.0
    try:
        return time.mktime((*fields, 0, 0, -1))
    except (ValueError, OverflowError):
        return 0.0
