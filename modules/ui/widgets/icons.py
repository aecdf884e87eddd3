"""The icons of the page as SVG. Emoji look different on every system, and some systems lack them."""

from __future__ import annotations

from pathlib import Path

_STROKE = 'fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'

THEME = (
    f'<svg viewBox="0 0 24 24" {_STROKE}><circle cx="12" cy="12" r="8"/>'
    '<path d="M12 4v16a8 8 0 0 0 0-16z" fill="currentColor"/></svg>'
)

REFRESH = str(Path(__file__).with_name("refresh.svg"))
