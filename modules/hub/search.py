"""Read the answer of a hub to a search for GGUF repositories. Nothing in it is trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from modules.hub.errors import BadAddress
from modules.hub.repo_id import parse_address

LIMIT = 15
"""How many repositories are asked for. The answer contains the chat template of each, about 15 KB."""
MAX_QUERY = 100

_MAX_COUNT = 10**15
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_EXPANDED = ("downloads", "likes", "lastModified", "gated", "gguf")


@dataclass(frozen=True)
class FoundRepository:
    """A repository of GGUF files. What the hub does not say is 0 or "".

    `downloads` are those of the last month, `updated` is a date such as "2026-01-31". A `gated` repository needs an
    access token.
    """

    name: str
    downloads: int = 0
    likes: int = 0
    parameters: int = 0
    context_length: int = 0
    updated: str = ""
    gated: bool = False


def search_path(text: str) -> str:
    """Return path and query that ask a hub for GGUF repositories by name, the most downloaded first."""
    query = [("search", text.strip()[:MAX_QUERY]), ("filter", "gguf"), ("sort", "downloads"), ("limit", str(LIMIT))]
    return "/api/models?" + urlencode(query + [("expand[]", field) for field in _EXPANDED])


def read_results(answer: object) -> tuple[FoundRepository, ...]:
    """Return the repositories in the answer that have a valid name. Raises ValueError if it is no list."""
    if not isinstance(answer, list):
        raise ValueError("not a list")
    return tuple(_results(answer[:LIMIT]))


def _results(entries: list[Any]) -> Iterator[FoundRepository]:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        name = entry.get("id")
        if not isinstance(name, str) or not _is_name(name):
            continue
        shape = entry.get("gguf")
        details: Mapping[str, Any] = shape if isinstance(shape, dict) else {}
        date = entry.get("lastModified")
        yield FoundRepository(
            name,
            downloads=_count(entry.get("downloads")),
            likes=_count(entry.get("likes")),
            parameters=_count(details.get("total")),
            context_length=_count(details.get("context_length")),
            updated=date[:10] if isinstance(date, str) and _DATE.match(date) else "",
            gated=bool(entry.get("gated")),
        )


def _is_name(text: str) -> bool:
    try:
        return parse_address(text).repo == text
    except BadAddress:
        return False


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_COUNT else 0
