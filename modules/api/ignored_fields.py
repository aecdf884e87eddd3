"""List the fields of a request that its answer does without, in the answer and in a header."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

_MAX_IGNORED = 50  # fields listed
_MAX_NAME = 80  # characters of the name of one


def ignored_header(ignored: Sequence[str]) -> dict[str, str]:
    """Return the header that lists the fields; empty for none.

    Clients choose the names: characters that have a meaning in a header are percent-encoded.
    """
    names = ", ".join(quote(name, safe="[]") for name in shortened(ignored))
    return {"X-Ignored-Parameters": names} if names else {}


def shortened(ignored: Sequence[str]) -> list[str]:
    """Return the beginning of a long list, with the beginnings of long names: the client knows what it sent."""
    names = [name[:_MAX_NAME].encode("utf-8", "replace").decode() for name in ignored[:_MAX_IGNORED]]
    return [*names, "..."] if len(ignored) > _MAX_IGNORED else names
