"""Separate the thoughts of a finished reply from its answer."""

from __future__ import annotations

from modules.core.pieces import REASONING
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers, ReasoningParser

MAX_CHARACTERS = 2_000_000
MAX_CLOSING_MARKERS = 200
"""Longer replies, and those with more closing markers (in quotes, say), are left as they are."""

_THINK = ReasoningMarkers("<think>", "</think>")
_MARKERS = (
    *KNOWN_MARKERS,
    ReasoningMarkers("<thinking>", "</thinking>"),
    ReasoningMarkers("<<<reasoning_content_start>>>", "<<<reasoning_content_end>>>"),  # llama-server, end of 2025
)


def split_thought(text: str) -> tuple[str, str]:
    """Return the thought and the answer of a reply. Without a thought the text is returned as it is."""
    opened = text.lstrip().startswith(tuple(markers.open for markers in _MARKERS))
    inside = not opened and _closes_unopened(text)
    if not (opened or inside) or len(text) > MAX_CHARACTERS or _closing_markers(text) > MAX_CLOSING_MARKERS:
        return "", text
    parser = ReasoningParser((_THINK,) if inside else _MARKERS, inside=inside)
    pieces = parser.feed(text) + parser.end()
    thought = "".join(piece for kind, piece in pieces if kind == REASONING)
    return thought, "".join(piece for kind, piece in pieces if kind != REASONING)


def _closing_markers(text: str) -> int:
    return sum(text.count(close) for close in {markers.close for markers in _MARKERS})


def _closes_unopened(text: str) -> bool:
    """Whether the prompt had opened the thought: it is closed once, at the end of a line, and never opened."""
    before, close, after = text.partition(_THINK.close)
    return bool(close) and _THINK.open not in before and _THINK.close not in after and after[:1] in ("\n", "")
