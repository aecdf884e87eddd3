"""Links in messages: which addresses become one, and how they are written."""

from __future__ import annotations

import re
from html import escape

ATTRIBUTES = 'target="_blank" rel="noopener noreferrer nofollow"'
SCHEMES = ("http://", "https://", "mailto:")
MAX_URL_LENGTH = 2000

URL = re.compile(r"https?://[a-z0-9\[](?:[a-z0-9\-._~:/?#\[\]@!$&'()*+,;=%])*", re.IGNORECASE)
"""An address in plain text. It ends at the first character that is not ASCII: Chinese texts have no space after it."""

_BEFORE = re.compile(r"[a-z0-9]$", re.IGNORECASE)


def is_allowed(url: str) -> bool:
    """Return whether a model may link to `url`: never to scripts, data, or pages of this program."""
    return len(url) <= MAX_URL_LENGTH and url.lower().startswith(SCHEMES)


def url_at(text: str, start: int, end: int | None = None) -> str:
    """Return the address that begins at `start`, without punctuation of the sentence around it; "" if there is none."""
    longest = start + MAX_URL_LENGTH
    match = URL.match(text, start, longest if end is None else min(end, longest))
    if match is None or _BEFORE.search(text[max(0, start - 1) : start]):
        return ""
    return _without_trailing_punctuation(match[0])


def opening_tag(url: str, title: str = "") -> str:
    described = f' title="{escape(title)}"' if title else ""
    return f'<a href="{escape(url)}"{described} {ATTRIBUTES}>'


def linked(text: str) -> str:
    """Return a plain text as HTML in which its addresses are links."""
    parts, at = [], 0
    for match in URL.finditer(text):
        url = url_at(text, match.start())
        if url:
            parts += [escape(text[at : match.start()]), opening_tag(url), escape(url), "</a>"]
            at = match.start() + len(url)
    return "".join([*parts, escape(text[at:])])


def _without_trailing_punctuation(url: str) -> str:
    surplus = {closing: url.count(closing) - url.count(opening) for opening, closing in ("()", "[]")}
    end = len(url)
    while end and (url[end - 1] in ".,;:!?'*_~" or surplus.get(url[end - 1], 0) > 0):
        if url[end - 1] in surplus:
            surplus[url[end - 1]] -= 1
        end -= 1
    shortened = url[:end]
    return shortened if URL.fullmatch(shortened) else ""
