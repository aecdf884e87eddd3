"""The icons of the page as SVG. Emoji look different on every system, and some systems lack them."""

from __future__ import annotations

from pathlib import Path

_STROKE = 'fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'


def _icon(path: str) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true" {_STROKE}><path d="{path}"/></svg>'


MENU = _icon("M4 7h16M4 12h16M4 17h16")
PARAMETERS = _icon("M4 8h8M16 8h4M14 6v4M4 16h3M11 16h9M9 14v4")
CLOSE = _icon("M6 6l12 12M18 6L6 18")

REFRESH = str(Path(__file__).with_name("refresh.svg"))
